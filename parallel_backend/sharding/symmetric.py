"""Ulysses' exchanges without a collective: each rank writes its rows straight into the memory of the others.

torch's symmetric memory maps one buffer of every rank into all of them. A rank writes, then waits until all have
written. Three buffers take turns, so one barrier an exchange is enough: an attention needs up to three exchanges (q; k
and v; the output), and who writes into a buffer again has passed the barrier of the second after it, which every rank
enters after its last read of that buffer.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric_memory

from . import counts
from .collectives import offsets
from .wide_copy import copy_wide

BUFFERS = 3
LARGEST = 512 * 2**20  # bytes of a buffer: beyond, a collective is as fast and needs no memory of its own
BARRIER_CHANNEL = 0
NOT_WANTED = -1


class SymmetricExchange:
    """The exchanges of one Ulysses group, whose ranks make the same ones in the same order."""

    def __init__(self, group: dist.ProcessGroup, rank: int, size: int, device: torch.device):
        self._group = group
        self._counted = counts.symmetric(group)
        self._rank = rank
        self._size = size
        self._device = device
        self._turn = 0
        self._capacity = 0
        self._handles: list = []
        self._outgrown: list = []  # CUDA graphs may hold their addresses
        self._views: dict[tuple, torch.Tensor] = {}

    def fits(self, elements: int, dtype: torch.dtype) -> bool:
        """Whether an exchange of which no rank holds more than `elements` goes this way."""
        return elements * dtype.itemsize <= LARGEST

    def tokens_to_heads(
        self, tensors: Sequence[torch.Tensor], heads: Sequence[Sequence[int]], tokens: Sequence[int]
    ) -> list[torch.Tensor]:
        """As ulysses.tokens_to_heads. The results may be read until the second exchange after this one."""
        batch, _, local, dim = tensors[0].shape
        widths = [sum(per_rank) for per_rank in zip(*heads, strict=True)]
        shapes = [(sum(tokens), batch, width, dim) for width in widths]
        turn = self._next(shapes, tensors[0].dtype)
        start = sum(tokens[: self._rank])
        for rank in self._others_first():
            target = self._view(turn, rank, shapes[rank], tensors[0].dtype)[start : start + local]
            at = 0
            for tensor, split in zip(tensors, heads, strict=True):
                first, count = sum(split[:rank]), split[rank]
                copy_wide(target[:, :, at : at + count], tensor[:, first : first + count].permute(2, 0, 1, 3))
                at += count
        self._barrier(turn)
        whole = self._view(turn, self._rank, shapes[self._rank], tensors[0].dtype)
        return [part.permute(1, 2, 0, 3) for part in whole.split([split[self._rank] for split in heads], dim=2)]

    def heads_to_tokens(self, out: torch.Tensor, heads: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """As ulysses.heads_to_tokens; a tensor of its own."""
        batch, _, channels = out.shape
        dim = channels // heads[self._rank]
        shapes = [(batch, count, sum(heads) * dim) for count in tokens]
        turn = self._next(shapes, out.dtype)
        first = sum(heads[: self._rank]) * dim
        begins = offsets(tokens)
        for rank in self._others_first():
            target = self._view(turn, rank, shapes[rank], out.dtype)[:, :, first : first + channels]
            copy_wide(target, out[:, begins[rank] : begins[rank] + tokens[rank]])
        self._barrier(turn)
        return self._view(turn, self._rank, shapes[self._rank], out.dtype).clone()

    def _others_first(self) -> list[int]:
        """Every rank begins with another one, so that no link is crowded; its own memory comes last."""
        return [(self._rank + step) % self._size for step in range(1, self._size + 1)]

    def _next(self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> int:
        needed = max(torch.Size(shape).numel() for shape in shapes) * dtype.itemsize
        if needed > self._capacity:
            self._grow(needed)
        self._turn = (self._turn + 1) % BUFFERS
        return self._turn

    def _grow(self, needed: int) -> None:
        """New buffers: a collective call, made by all as sizes are the same everywhere."""
        self._outgrown += self._handles
        self._views.clear()
        self._capacity = needed
        self._handles = [_new_buffer(self._capacity, self._device, self._group) for _ in range(BUFFERS)]

    def _view(self, turn: int, rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        key = (turn, rank, shape, dtype)
        if key not in self._views:
            _, handle = self._handles[turn]
            empty = 0 in shape  # a rank without tokens
            self._views[key] = (
                torch.empty(shape, dtype=dtype, device=self._device) if empty else handle.get_buffer(rank, shape, dtype)
            )
        return self._views[key]

    def _barrier(self, turn: int) -> None:
        counts.count(self._counted)
        self._handles[turn][1].barrier(channel=BARRIER_CHANNEL)


def _new_buffer(size: int, device: torch.device, group: dist.ProcessGroup) -> tuple:
    """The tensor, which must outlive its handle's use, and the handle."""
    buffer = symmetric_memory.empty(size, dtype=torch.uint8, device=device)
    return buffer, symmetric_memory.rendezvous(buffer, group)


def symmetric_exchange(
    group: dist.ProcessGroup, rank: int, size: int, device: torch.device
) -> SymmetricExchange | None:
    """A SymmetricExchange where every rank of the group can have one, None on all of them otherwise; collective.

    Not with NCCL_P2P_DISABLE=1 or XDIT_SYMMETRIC_MEMORY=0, nor between devices that cannot reach each other's memory.
    """
    wanted = os.environ.get("XDIT_SYMMETRIC_MEMORY", "1") != "0" and os.environ.get("NCCL_P2P_DISABLE", "0") != "1"
    devices = _gathered(device.index if wanted else NOT_WANTED, size, group)
    if NOT_WANTED in devices or len(set(devices)) != size or not all(
        torch.cuda.can_device_access_peer(device.index, other) for other in devices if other != device.index
    ):  # fmt: skip
        reachable = False
    else:
        reachable = _works(group, device)
    return SymmetricExchange(group, rank, size, device) if all(_gathered(int(reachable), size, group)) else None


def _gathered(value: int, size: int, group: dist.ProcessGroup) -> list[int]:
    """Every rank's `value`, in rank order; as tensors, because objects would be pickled (SECURITY.md)."""
    found = [torch.empty(1, dtype=torch.int64) for _ in range(size)]
    dist.all_gather(found, torch.tensor([value]), group=group)
    return [int(one) for one in found]


def _works(group: dist.ProcessGroup, device: torch.device) -> bool:
    try:
        _new_buffer(4096, device, group)
    except RuntimeError as error:
        logging.warning("no symmetric memory, exchanges go through NCCL: %s", str(error).splitlines()[0])
        return False
    return True
