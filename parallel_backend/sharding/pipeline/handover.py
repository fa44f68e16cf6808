"""Hidden states from one stage to the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ..peers import Peers, new_peers

TRANSFER_CTAS = 2  # multiprocessors of a transfer
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Handover:
    """The way from one stage to the next, seen from one of the two. Each pair of ranks has a process group of its own,
    on which only this one sends, so no order of stages and patches can lock up.
    """

    def __init__(self, group: dist.ProcessGroup, peer: int, device: torch.device):
        self._group = group
        self._peer = peer
        self._device = device
        self._dtypes: dict[int, tuple[torch.dtype, ...]] = {}
        self._posted: deque[list[tuple[torch.Tensor, dist.Work | None]]] = deque()
        self._sent: list[tuple[torch.Tensor, dist.Work]] = []

    def send(self, values: Sequence[torch.Tensor], announce: bool) -> None:
        """Start sending. `announce`: tell the types first."""
        if announce:
            types = torch.tensor([DTYPES.index(value.dtype) for value in values], device=self._device)
            self._start_sending(types)
        for value in values:
            self._start_sending(value.contiguous())

    def _start_sending(self, value: torch.Tensor) -> None:
        if value.numel():
            self._sent.append((value, dist.isend(value, self._peer, group=self._group)))

    def finish(self) -> None:
        """What was sent may be written again: at the end of a model call."""
        for _, work in self._sent:
            work.wait()
        self._sent.clear()

    def hear(self, place: int, count: int) -> None:
        """The types of `count` values that are announced, for this and later values of the same `place`."""
        types = torch.empty(count, dtype=torch.int64, device=self._device)
        dist.recv(types, self._peer, group=self._group)
        self._dtypes[place] = tuple(DTYPES[index] for index in types.tolist())

    def post(self, place: int, shapes: Sequence[tuple[int, ...]]) -> None:
        """Have memory ready for values of these shapes, so that they can come while this rank computes."""
        buffers = [
            torch.empty(shape, dtype=dtype, device=self._device)
            for shape, dtype in zip(shapes, self._dtypes[place], strict=True)
        ]
        self._posted.append(
            [
                (buffer, dist.irecv(buffer, self._peer, group=self._group) if buffer.numel() else None)
                for buffer in buffers
            ]
        )

    def take(self) -> list[torch.Tensor]:
        """What was posted first and not taken yet, arrived."""
        arriving = self._posted.popleft()
        for _, work in arriving:
            if work is not None:
                work.wait()
        return [buffer for buffer, _ in arriving]


@dataclass(frozen=True)
class Pipe:
    """This rank's place in a pipeline: its stages as Peers, and the ways from the stage before and to the stage after;
    they go in a circle.
    """

    stages: Peers
    before: Handover
    after: Handover


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
    return Pipe(stages, before, after) if stages is not None else None


def _new_group(ranks: tuple[int, int], device: torch.device) -> dist.ProcessGroup:
    """Of two ranks. A transfer waits for its other end on the GPU: it must not take much of it from the computation."""
    if device.type != "cuda":
        return dist.new_group(ranks)
    options = dist.ProcessGroupNCCL.Options()
    options.config.min_ctas, options.config.max_ctas = 1, TRANSFER_CTAS
    return dist.new_group(ranks, backend="nccl", pg_options=options)
