"""The keys and values of a request's conditions, and their memory from one request to the next."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from .keys_values import ConditionCache, Memory


class Caches:
    """`kept`: memory of the last request by place; `kind`: what memory must have in common besides the shapes of the
    model's inputs; `attentions_here`: as in ConditionCache.
    """

    def __init__(self, kept: dict[Hashable, Memory], kind: Hashable, attentions_here: int):
        self._kept = kept
        self._kind = kind
        self._attentions_here = attentions_here
        self._caches: dict[tuple[Hashable, Hashable], ConditionCache] = {}

    def of(self, conditions: tuple[Hashable, Hashable]) -> ConditionCache:
        """The cache of what `conditions_of` gave."""
        if conditions not in self._caches:
            memory = self._kept.pop(self._place(conditions[1], self.memory()), None) or Memory()
            self._caches[conditions] = ConditionCache(self._attentions_here, memory)
        return self._caches[conditions]

    def memory(self) -> dict[Hashable, Memory]:
        """All memory by its place: where the next request's conditions of the same shapes, in the same order, look."""
        found: dict[Hashable, Memory] = {}
        for (_, shapes), cache in self._caches.items():
            found[self._place(shapes, found)] = cache.memory
        return found

    def _place(self, shapes: Hashable, taken: Collection[Hashable]) -> Hashable:
        where = (self._kind, shapes)
        return next((*where, number) for number in itertools.count() if (*where, number) not in taken)


def conditions_of(options: dict[str, Any], inputs: tuple) -> tuple[Hashable, Hashable] | None:
    """What tells the model calls of one set of conditions from those of others: their identities, and the shapes of the
    model's inputs. None without identities. `options`: the transformer_options.
    """
    if not options.get("uuids"):
        return None
    shapes = tuple(tuple(leaf.shape) for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor))
    return tuple(options["uuids"]), shapes
