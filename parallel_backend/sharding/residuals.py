"""ControlNet residuals cover the whole image; each block adds this rank's rows of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .call import Call


class ShardedResiduals(list):
    """A list of [B, L, C] residuals that hands out local rows while the tokens are split, whole ones otherwise."""

    def __init__(self, whole: list, segment: str, call: Call):
        super().__init__(whole)
        self._segment = segment
        self._call = call

    def __getitem__(self, index):
        return self._local(super().__getitem__(index))

    def pop(self, index=-1):
        return self._local(super().pop(index))

    def _local(self, whole):
        if not isinstance(whole, torch.Tensor) or not self._call.sharded:
            return whole
        ((start, end),) = self._call.layout.spans((self._segment,), self._call.layout.rank)
        return whole[:, start : min(end, max(whole.shape[1], start))]


def shard_residuals(control: dict[str, Any], segments: Mapping[str, str], call: Call) -> dict[str, Any]:
    """The control dict with the lists named in `segments` sharded."""
    return {
        name: ShardedResiduals(value, segments[name], call) if name in segments and value is not None else value
        for name, value in control.items()
    }
