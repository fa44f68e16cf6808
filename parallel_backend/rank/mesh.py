"""The process groups of each set of degrees, made once and kept: degrees change with the request, ranks do not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from ..config import Degrees
from ..sharding.cfg import CfgGroups, new_cfg_groups
from ..sharding.collectives import SequenceGroups, new_sequence_groups


@dataclass(frozen=True)
class Mesh:
    """One rank's place in a factorisation. rank = cfg index × sequence + ring index × ulysses + ulysses index.

    `active` holds every rank that takes part; ranks beyond sit the request out (`sp` is None there).
    """

    degrees: Degrees
    active: dist.ProcessGroup | None
    sp: SequenceGroups | None
    cfg: CfgGroups | None

    @property
    def takes_part(self) -> bool:
        return self.sp is not None


class Meshes:
    def __init__(self, device: torch.device):
        self._device = device
        self._meshes: dict[Degrees, Mesh] = {}
        self._usp: dict[tuple[int, int], object] = {}

    def get(self, degrees: Degrees) -> Mesh:
        """The mesh of `degrees`; at its first use a collective call of all ranks of the world."""
        if degrees not in self._meshes:
            self._meshes[degrees] = self._make(degrees)
        return self._meshes[degrees]

    def _make(self, degrees: Degrees) -> Mesh:
        sets = [range(index * degrees.sequence, (index + 1) * degrees.sequence) for index in range(degrees.cfg)]
        sp = new_sequence_groups(sets, degrees.ulysses, degrees.ring)
        cfg = new_cfg_groups(degrees.sequence, degrees.cfg) if degrees.cfg > 1 else None
        active = dist.new_group(range(degrees.ranks)) if degrees.ranks > 1 else None
        return Mesh(degrees, active, sp, cfg)

    def usp(self, mesh: Mesh) -> object | None:
        """xfuser's USP for a ring on GPUs; imported at the first ring, None elsewhere."""
        if self._device.type != "cuda" or mesh.degrees.ring == 1:
            return None
        key = (mesh.degrees.ulysses, mesh.degrees.ring, mesh.degrees.cfg)
        if key not in self._usp:
            from ..sharding.xfuser_adapter import XfuserUSP

            self._usp[key] = XfuserUSP(mesh.sp)
        return self._usp[key]
