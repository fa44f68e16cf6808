"""Ranks that do the same work on other conditions or other rows: one axis of the mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

Result = TypeVar("Result")


class PeerFailed(RuntimeError):
    """This rank's part went well, another one's did not; that rank tells why."""

    def __init__(self):
        super().__init__("a rank with other conditions or images failed in this model call")


@dataclass(frozen=True)
class Peers:
    """This rank's place on one axis: `ranks` are the global ranks of the axis in order, `index` is its own place."""

    index: int
    ranks: tuple[int, ...]
    group: dist.ProcessGroup

    @property
    def size(self) -> int:
        return len(self.ranks)

    def all_or_none(self, part: Callable[[], Result]) -> Result:
        """`part()`, if it went well for every peer: before results are exchanged, so that none waits for one that is
        lost. Raises what it raised here, PeerFailed when it raised elsewhere.
        """
        error = None
        try:
            result = part()
        except Exception as raised:
            error = raised
        failed = self.largest(int(error is not None))
        if error is not None:
            raise error
        if failed:
            raise PeerFailed
        return result

    def largest(self, number: int) -> int:
        """Of the numbers of all peers."""
        numbers = torch.tensor([number], dtype=torch.int64)
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=self.group)
        return int(numbers.item())


def new_peers(degree: int, stride: int, total: int) -> Peers | None:
    """Peers along an axis of `degree` ranks that lie `stride` apart, in a mesh of ranks 0 … total - 1.

    Called by every rank of the world; None for a rank outside the mesh.
    """
    me, mine = dist.get_rank(), None
    for first in (rank for rank in range(total) if rank // stride % degree == 0):
        ranks = tuple(range(first, first + degree * stride, stride))
        group = dist.new_group(ranks)
        if me in ranks:
            mine = Peers(ranks.index(me), ranks, group)
    return mine
