"""ControlNet residuals cover the whole image; each block adds this rank's rows of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..plan.errors import ShardingError

if TYPE_CHECKING:
    from .model_call import Call


class ShardedResiduals(list):
    """A list of [B, L, C] residuals that hands out local rows while the tokens are split, whole ones otherwise.

    L may be less than the number of tokens: they are added to the first ones then. Raises ShardingError for residuals
    that are no rows of the tokens: only their ControlNet knows what they are.
    """

    def __init__(self, name: str, whole: list, segment: str, call: Call):
        super().__init__(whole)
        self._name = name
        self._segment = segment
        self._call = call

    def __getitem__(self, index):
        return self._local(super().__getitem__(index))

    def pop(self, index=-1):
        return self._local(super().pop(index))

    def _local(self, whole):
        if not isinstance(whole, torch.Tensor) or not self._call.sharded:
            return whole
        total = self._call.layout.total((self._segment,))
        if whole.ndim != 3 or whole.shape[1] > total or whole.shape[1] == 1 < total:
            raise ShardingError(
                f"{', '.join(self._call.session.controls) or 'a ControlNet'} gives {self._name!r} residuals of shape"
                f" {tuple(whole.shape)}, which are not rows of the {total} tokens that they are added to, so they"
                " cannot be divided with them: set Parallel Config's ulysses, ring and pipefusion to 1"
            )
        ((start, end),) = self._call.layout.spans((self._segment,), self._call.layout.rank)
        return whole[:, start : min(end, max(whole.shape[1], start))]


def shard_residuals(control: dict[str, Any], segments: Mapping[str, str], call: Call) -> dict[str, Any]:
    """The control dict with the lists named in `segments` sharded."""
    return {
        name: ShardedResiduals(name, value, segments[name], call) if name in segments and value is not None else value
        for name, value in control.items()
    }
