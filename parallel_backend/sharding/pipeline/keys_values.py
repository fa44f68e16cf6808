"""Keys and values of whole sequences, kept from one model call to the next."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import comfy.model_management
import torch

from ..exchange.wide_copy import copy_wide

SHARE_OF_FREE = 0.8  # of the memory that is free: activations need some too

Span = tuple[int, int, int]  # first row here, first row in the whole sequence, number of rows


@dataclass
class KeysValues:
    """Of one attention, in the model's order of tokens: keys and values [B, H, L, D], and the mask over keys
    [..., L] where the model hands out a mask over its own share of them.
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor | None = None

    @classmethod
    def empty(cls, keys: torch.Tensor, values: torch.Tensor, length: int) -> KeysValues:
        """For sequences of `length`; token-major in memory, as models make them."""
        return cls(_token_major(keys, length), _token_major(values, length))

    def write(self, keys: torch.Tensor, values: torch.Tensor, spans: Sequence[Span]) -> None:
        """Put rows of [B, H, l, D] where they belong."""
        for here, there, count in spans:
            for kept, new in ((self.keys, keys), (self.values, values)):
                copy_wide(kept[:, :, there : there + count], new[:, :, here : here + count])

    def write_mask(self, mask: torch.Tensor, spans: Sequence[Span]) -> None:
        """The same for a mask [..., l]."""
        if self.mask is None:
            self.mask = mask.new_empty((*mask.shape[:-1], self.keys.shape[2]))
        for here, there, count in spans:
            self.mask[..., there : there + count] = mask[..., here : here + count]

    def fits(self, keys: torch.Tensor, length: int) -> bool:
        """Whether this memory is for keys like these, of sequences of `length`."""
        batch, heads, _, size = keys.shape
        return self.keys.shape == (batch, heads, length, size) and self.keys.dtype == keys.dtype


def _token_major(like: torch.Tensor, length: int) -> torch.Tensor:
    batch, heads, _, size = like.shape
    return like.new_empty((batch, length, heads, size)).transpose(1, 2)


_numbers = itertools.count()


@dataclass
class Memory:
    """Keys and values by (block, number of its attention call). `number`: no two have the same, so that who holds their
    addresses can tell them apart.
    """

    attentions: dict[tuple[int, int], KeysValues] = field(default_factory=dict)
    number: int = field(default_factory=_numbers.__next__)


@dataclass
class ConditionCache:
    """What is kept of one set of conditions.

    `attentions_here`: how many attentions this stage has; `memory`: theirs; `streams`: lengths of the streams of
    tokens that its blocks take, the image last, known after the first model call; `calls`: model calls so far;
    `arriving`: shapes of what comes from the rank before, by number of patches, patch and first block; `needed`: bytes
    for all attentions here, and whether they are `lacking`: then nothing is kept.
    """

    attentions_here: int
    memory: Memory
    streams: tuple[int, ...] = ()
    calls: int = 0
    arriving: dict[tuple[int, int, int], list[tuple[int, ...]]] = field(default_factory=dict)
    needed: int = 0
    lacking: bool = False

    def attention(self, place: tuple[int, int], keys: torch.Tensor, values: torch.Tensor, length: int) -> KeysValues:
        """The memory of the attention at `place` (block, number of its attention call), at first empty."""
        kept = self.memory.attentions
        if place in kept and kept[place].fits(keys, length):
            return kept[place]
        if not self.needed:
            self.needed = (keys.nbytes + values.nbytes) // keys.shape[2] * length * self.attentions_here
            free = comfy.model_management.get_free_memory(keys.device)
            self.lacking = self.needed > free * SHARE_OF_FREE
        made = KeysValues.empty(keys, values, length)
        if not self.lacking:
            kept[place] = made
        return made
