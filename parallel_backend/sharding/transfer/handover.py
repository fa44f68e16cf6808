"""Hidden states from one stage to the next."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

from .mailbox import Mailbox
from .transfer_lanes import AtOnce, Lane, SideStream, Waiting, WhenWaitedFor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Transfer(NamedTuple):
    """`values` on their way: to be left alone until the ends of all `waits`."""

    values: list[torch.Tensor]
    waits: list[Waiting]


class Handover:
    """The way from one stage to the next, seen from one of the two. Each pair of ranks has a process group of its own,
    on which only this one sends, so no order of stages and patches can lock up.

    Values go through the process group; those of a patch through `mailbox` while both ends have one.
    """

    def __init__(self, group: dist.ProcessGroup, peer: int, device: torch.device):
        self.group = group
        self.peer = peer
        self.mailbox: Mailbox | None = None
        self._largest = 0, 0
        on_gpu = device.type == "cuda"
        self.sending: Lane = SideStream(device) if on_gpu else AtOnce()
        self.receiving: Lane = SideStream(device) if on_gpu else WhenWaitedFor()
        self._device = device
        self._dtypes: dict[int, tuple[torch.dtype, ...]] = {}
        self._posted: deque[Transfer] = deque()
        self._sent: list[Transfer] = []

    def begin(self) -> None:
        """A model call begins. Forgets what one that ended early left behind."""
        if self._posted or self._sent:
            self.sending.settle()
            self.receiving.settle()
            self._posted.clear()
            self._sent.clear()

    def send(self, values: Sequence[torch.Tensor], patch: tuple[int, int] | None) -> None:
        """Start sending. `patch`: the number of this patch and that of patches; None in an exact call, which tells the
        types first.
        """
        values = [value.contiguous() for value in values]
        if patch is None:
            self._remember(values)
            types = torch.tensor([DTYPES.index(value.dtype) for value in values], device=self._device)
            values = [types, *values]
        if patch is not None and self.mailbox is not None:
            waits = [self.sending.begin(functools.partial(self.mailbox.put, values, patch))]
        else:
            waits = [_begun(dist.isend(value, self.peer, group=self.group)) for value in values if value.numel()]
        self._sent.append(Transfer(values, waits))

    def _remember(self, values: list[torch.Tensor]) -> None:
        """[B, L, C] each."""
        tokens, bytes_of_token = self._largest
        self._largest = (
            max(tokens, sum(value.shape[1] for value in values)),
            max(bytes_of_token, *(value[:, :1].nbytes for value in values)),
        )

    def pop_largest(self) -> tuple[int, int]:
        """The most tokens that were sent at once in exact calls since this was last asked, and the most bytes of one;
        0, 0 if nothing was.
        """
        largest, self._largest = self._largest, (0, 0)
        return largest

    def finish(self) -> None:
        """What was sent may be written again: at the end of a model call."""
        for transfer in self._sent:
            _wait(transfer)
        self._sent.clear()

    def hear(self, place: int, count: int) -> None:
        """The types of `count` values that are announced, for this and later values of the same `place`."""
        types = torch.empty(count, dtype=torch.int64, device=self._device)
        dist.recv(types, self.peer, group=self.group)
        self._dtypes[place] = tuple(DTYPES[index] for index in types.tolist())

    def post(self, place: int, shapes: Sequence[tuple[int, ...]], patch: tuple[int, int] | None) -> None:
        """Have memory ready for values of these shapes, so that they can come while this rank computes. `patch` as the
        sender gives it.
        """
        buffers = [
            torch.empty(shape, dtype=dtype, device=self._device)
            for shape, dtype in zip(shapes, self._dtypes[place], strict=True)
        ]
        if patch is not None and self.mailbox is not None:
            waits = [self.receiving.begin(functools.partial(self.mailbox.get, buffers, patch))]
        else:
            waits = [_begun(dist.irecv(buffer, self.peer, group=self.group)) for buffer in buffers if buffer.numel()]
        self._posted.append(Transfer(buffers, waits))

    def take(self) -> list[torch.Tensor]:
        """What was posted first and not taken yet, arrived."""
        arrived = self._posted.popleft()
        _wait(arrived)
        return arrived.values


def _begun(work: dist.Work | None) -> Waiting:
    """torch gives None to a rank that is not in the group."""
    assert work is not None
    return work


def _wait(transfer: Transfer) -> None:
    for waiting in transfer.waits:
        waiting.wait()
