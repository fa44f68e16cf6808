"""The ways between the stages of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from ..guided.peers import Peers, new_peers
from .handover import Handover
from .mailboxes import Mailboxes

TRANSFER_CTAS = 2  # multiprocessors of a transfer through NCCL: in exact calls, or where there are no mailboxes


@dataclass(frozen=True)
class Pipe:
    """This rank's place in a pipeline: its stages as Peers, the ways from the stage before and to the stage after, and
    the mailboxes of all ways. They go in a circle.
    """

    stages: Peers
    before: Handover
    after: Handover
    mailboxes: Mailboxes


def new_pipe(degree: int, stride: int, total: int, device: torch.device) -> Pipe | None:
    """Pipelines of `degree` ranks that lie `stride` apart, in a mesh of ranks 0 … total - 1.

    Called by every rank of the world; None for a rank outside the mesh.
    """
    me, before, after = dist.get_rank(), None, None
    stages = new_peers(degree, stride, total)
    for first in range(total):
        last = first // stride % degree == degree - 1
        second = first - (degree - 1) * stride if last else first + stride
        group = _new_group((first, second), device)
        if me == second:
            before = Handover(group, first, device)
        if me == first:
            after = Handover(group, second, device)
    if stages is None or before is None or after is None:
        return None
    return Pipe(stages, before, after, Mailboxes(stages, before, after, device))


def _new_group(ranks: tuple[int, int], device: torch.device) -> dist.ProcessGroup:
    """Of two ranks. A transfer waits for its other end on the GPU: it must not take much of it from the computation."""
    if device.type != "cuda":
        return dist.new_group(ranks)
    options = dist.ProcessGroupNCCL.Options()
    options.config.min_ctas, options.config.max_ctas = 1, TRANSFER_CTAS
    return dist.new_group(ranks, backend="nccl", pg_options=options)
