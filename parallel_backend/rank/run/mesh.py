"""The process groups of each set of degrees, made once and kept for a while: degrees change with the request."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from ...contract.config import Degrees
from ...sharding.attention import xfuser_adapter
from ...sharding.attention.direct_ring import DirectRing
from ...sharding.attention.symmetric_exchange import SymmetricExchange
from ...sharding.exchange import process_groups
from ...sharding.exchange.collectives import SequenceGroups, new_sequence_groups
from ...sharding.exchange.symmetric_buffers import reach_each_other
from ...sharding.guided.peers import Peers, new_peers
from ...sharding.transfer.stage_links import Pipe, new_pipe

MOST_MESHES = 4


@dataclass(frozen=True)
class Mesh:
    """One rank's place in a factorisation. Ranks count through cfg, batch, pipefusion, ring, ulysses, the last fastest.

    `active` holds every rank that takes part; ranks beyond sit the request out (`sp` is None there). `number`: no other
    mesh of this process has it, also none of the same degrees that was made later.
    """

    number: int
    degrees: Degrees
    active: dist.ProcessGroup | None
    sp: SequenceGroups | None
    cfg: Peers | None
    batch: Peers | None
    pipe: Pipe | None

    @property
    def takes_part(self) -> bool:
        return self.sp is not None


def written_directly(sp: SequenceGroups, device: torch.device) -> SequenceGroups:
    """Groups whose transfers go straight into the others' memory, where all their ranks reach it; collective."""
    if sp.ulysses is not None and reach_each_other(sp.ulysses, sp.ulysses_size, device):
        sp = replace(sp, symmetric=SymmetricExchange(sp.ulysses, sp.ulysses_rank, sp.ulysses_size, device))
    if sp.ring is not None and reach_each_other(sp.ring, sp.ring_size, device):
        sp = replace(sp, direct=DirectRing(sp.ring, sp.ring_rank, sp.ring_size, device))
    return sp


class Meshes:
    """At most MOST_MESHES of them, the latest used. `before_release()` is called before one is given back: CUDA graphs
    may hold its buffers, and end before the groups whose collectives they captured.
    """

    def __init__(self, device: torch.device, before_release: Callable[[], None] = lambda: None):
        self._device = device
        self._before_release = before_release
        self._made = 0
        self._meshes: OrderedDict[Degrees, tuple[Mesh, list[dist.ProcessGroup]]] = OrderedDict()
        self._usp: dict[Degrees, object] = {}

    def get(self, degrees: Degrees) -> Mesh:
        """The mesh of `degrees`; where it is not at hand a collective call of all ranks of the world."""
        if degrees not in self._meshes:
            while len(self._meshes) >= MOST_MESHES:
                self._release(next(iter(self._meshes)))
            with process_groups.made() as groups:
                self._meshes[degrees] = self._make(degrees), groups
        self._meshes.move_to_end(degrees)
        return self._meshes[degrees][0]

    def release(self) -> None:
        """Give back every mesh: process groups and the memory that ranks share for their exchanges. A collective call
        of all ranks of the world, between requests.
        """
        for degrees in list(self._meshes):
            self._release(degrees)

    def _release(self, degrees: Degrees) -> None:
        self._before_release()
        mesh, groups = self._meshes.pop(degrees)
        self._usp.pop(degrees, None)
        if mesh.pipe is not None:
            mesh.pipe.mailboxes.close()
        del mesh
        process_groups.destroy(groups, self._device)

    def _make(self, degrees: Degrees) -> Mesh:
        total, sequence = degrees.ranks, degrees.sequence
        pipeline = sequence * degrees.pipefusion
        sets = [range(first, first + sequence) for first in range(0, total, sequence)]
        sp = new_sequence_groups(sets, degrees.ulysses, degrees.ring)
        if sp is not None and self._device.type == "cuda":
            sp = written_directly(sp, self._device)
        self._made += 1
        return Mesh(
            self._made,
            degrees,
            active=dist.new_group(range(total)) if total > 1 else None,
            sp=sp,
            cfg=new_peers(degrees.cfg, pipeline * degrees.batch, total) if degrees.cfg > 1 else None,
            batch=new_peers(degrees.batch, pipeline, total) if degrees.batch > 1 else None,
            pipe=new_pipe(degrees.pipefusion, sequence, total, self._device) if degrees.pipefusion > 1 else None,
        )

    def usp(self, mesh: Mesh) -> object | None:
        """xfuser's USP for a ring on GPUs that do not reach each other's memory; imported then, None elsewhere, and
        where xfuser is not installed: `ring_attention` computes the same.
        """
        assert mesh.sp is not None, "this rank sits the request out"
        if self._device.type != "cuda" or mesh.degrees.ring == 1 or mesh.sp.direct is not None:
            return None
        if mesh.degrees in self._usp:
            return self._usp[mesh.degrees]
        if (missing := xfuser_adapter.missing()) is not None:
            logging.warning("xDiT: the ring runs without xfuser, whose package %s is not installed", missing)
            return None
        self._usp[mesh.degrees] = xfuser_adapter.XfuserUSP(mesh.sp)
        return self._usp[mesh.degrees]
