"""The process groups over which blocks are gathered: their own, so that these do not queue behind attention's."""

from __future__ import annotations

import torch
import torch.distributed as dist

from ...contract.config import Degrees
from ...sharding.exchange import process_groups


class WeightGroups:
    def __init__(self, device: torch.device):
        self._device = device
        self._groups: dict[tuple[int, int], dist.ProcessGroup | None] = {}
        self._made: list[dist.ProcessGroup] = []

    def get(self, degrees: Degrees) -> dist.ProcessGroup | None:
        """The ranks that share one copy of the blocks with this one, None for a rank that takes no part.

        At the first use of such a division a collective call of all ranks of the world.
        """
        size, total = degrees.shards, degrees.ranks
        if (size, total) not in self._groups:
            sets = [range(first, first + size) for first in range(0, total, size)]
            with process_groups.made() as made:
                groups = [(ranks, dist.new_group(ranks)) for ranks in sets]
            self._made += made
            mine = [group for ranks, group in groups if dist.get_rank() in ranks]
            self._groups[size, total] = mine[0] if mine else None
        return self._groups[size, total]

    def release(self) -> None:
        """Give back every group. A collective call of all ranks of the world, between requests."""
        self._groups.clear()
        process_groups.destroy(self._made, self._device)
