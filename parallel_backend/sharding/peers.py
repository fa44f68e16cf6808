"""Ranks that do the same work on other conditions or other rows: one axis of the mesh."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist


@dataclass(frozen=True)
class Peers:
    """This rank's place on one axis: `ranks` are the global ranks of the axis in order, `index` is its own place."""

    index: int
    ranks: tuple[int, ...]
    group: dist.ProcessGroup

    @property
    def size(self) -> int:
        return len(self.ranks)


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
