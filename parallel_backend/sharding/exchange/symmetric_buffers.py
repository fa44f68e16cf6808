"""Memory that the ranks of a group write into: torch's symmetric memory, one buffer of each rank mapped into all.

A rank writes, then waits at a barrier until all have written. Several buffers take turns, so that one barrier a use is
enough: who writes into a buffer again must have passed a barrier that every rank enters after its last read of it.
"""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric_memory

from ...system import peer_memory
from . import collective_counts
from .collectives import gather_numbers

LARGEST = 512 * 2**20  # bytes of a buffer: beyond, a collective is as fast and needs no memory of its own
BARRIER_CHANNEL = 0
NOT_WANTED = -1


class SymmetricBuffers:
    """`count` buffers of every rank of `group`, whose ranks make the same calls in the same order."""

    def __init__(self, group: dist.ProcessGroup, rank: int, size: int, device: torch.device, count: int):
        self.rank = rank
        self.size = size
        self._group = group
        self._counted = collective_counts.beside(group, "symmetric")
        self._device = device
        self._count = count
        self._turn = 0
        self._capacity = 0
        self._handles: list = []
        self._outgrown: list = []  # CUDA graphs may hold their addresses
        self._views: dict[tuple, torch.Tensor] = {}

    @staticmethod
    def fits(elements: int, dtype: torch.dtype) -> bool:
        """Whether a use of which no rank holds more than `elements` goes this way."""
        return elements * dtype.itemsize <= LARGEST

    def others(self) -> list[int]:
        """Every rank begins with another one, so that no link is crowded."""
        return [(self.rank + step) % self.size for step in range(1, self.size)]

    def next(self, elements: int, dtype: torch.dtype) -> int:
        """The buffer whose turn it is; each holds `elements` at least. When they have to grow, a collective call."""
        needed = elements * dtype.itemsize
        if needed > self._capacity:
            self._outgrown += self._handles
            self._views.clear()
            self._capacity = needed
            self._handles = [_new_buffer(needed, self._device, self._group) for _ in range(self._count)]
        self._turn = (self._turn + 1) % self._count
        return self._turn

    def view(self, turn: int, rank: int, shape: tuple[int, ...], dtype: torch.dtype, start: int = 0) -> torch.Tensor:
        """`rank`'s buffer from element `start` on."""
        key = (turn, rank, shape, dtype, start)
        if key not in self._views:
            self._views[key] = self._new_view(*key)
        return self._views[key]

    def _new_view(self, turn: int, rank: int, shape: tuple[int, ...], dtype: torch.dtype, start: int) -> torch.Tensor:
        count = torch.Size(shape).numel()
        if count == 0:  # a rank without tokens
            return torch.empty(shape, dtype=dtype, device=self._device)
        _, handle = self._handles[turn]
        return handle.get_buffer(rank, (start + count,), dtype)[start:].view(shape)

    def barrier(self, turn: int) -> None:
        """On the current stream: what this rank wrote before is there for all, and what all wrote for this one."""
        collective_counts.count(self._counted)
        self._handles[turn][1].barrier(channel=BARRIER_CHANNEL)


def _new_buffer(size: int, device: torch.device, group: dist.ProcessGroup) -> tuple:
    """The tensor, which must outlive its handle's use, and the handle."""
    buffer = symmetric_memory.empty(size, dtype=torch.uint8, device=device)
    return buffer, symmetric_memory.rendezvous(buffer, group)


def reach_each_other(group: dist.ProcessGroup, size: int, device: torch.device) -> bool:
    """Whether all ranks of the group can have such memory; the same answer on each, by a collective call."""
    own = device.index if peer_memory.wanted() else NOT_WANTED
    devices = [index for (index,) in gather_numbers((own,), size, group)]
    possible = NOT_WANTED not in devices and len(set(devices)) == size and peer_memory.reachable(devices)
    works = possible and _works(group, device)
    return all(one for (one,) in gather_numbers((works,), size, group))


def _works(group: dist.ProcessGroup, device: torch.device) -> bool:
    try:
        _new_buffer(4096, device, group)
    except RuntimeError as error:
        logging.warning("no symmetric memory, exchanges go through NCCL: %s", str(error).splitlines()[0])
        return False
    return True
