"""The mailboxes of all links of a pipeline: made, and made larger, by all stages together."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable

import torch
import torch.distributed as dist

from ...system.memory_file import new_memory_file
from ..exchange import collective_counts
from ..exchange.collectives import gather_numbers
from ..guided.peers import Peers
from .handover import Handover
from .mailbox import FLAG_BYTES, Mailbox, data_bytes
from .shared_memory import Arena, memory_file_path
from .stream_values import PolledValues, StreamValues, Values
from .transfer_lanes import Lane

NONE, NO_MEMORY, NOT_MAPPED, NOT_PINNED, NO_FLAGS = range(5)
WHY = (
    "",
    "there is not enough of it",
    "a rank cannot map another one's",
    "it cannot be pinned",
    "the driver does not wait for it",
)
NO_FILE = -1
SENDER_SLOT, RECEIVER_SLOT = 0, 1  # where the two ends of a link try it out


class Mailboxes:
    """Those of `stages`, of which `before` and `after` are here. None has one to begin with; either all hand over
    through them, or none.

    `generation` changes whenever memory does that a CUDA graph may know.
    """

    def __init__(self, stages: Peers, before: Handover, after: Handover, device: torch.device):
        self.generation = 0
        self._stages = stages
        self._before = before
        self._after = after
        self._device = device
        self._room = 0  # for data, on the link to the stage after
        self._problem = NONE
        self._wanted = device.type == "cpu" or torch.version.cuda is not None  # HIP has other names for it

    def agree(self, tokens: int, streams: int, note: Callable[[str], None]) -> None:
        """A collective call of all stages between two model calls: room for what has been handed over, and for model
        calls of `tokens` in `streams` on each rank. `note(line)` hears why there is none.
        """
        if not self._wanted:
            return
        if not self._problem:
            most, bytes_of_token = self._after.pop_largest()
            self._make_room(data_bytes(max(tokens, most), streams, bytes_of_token) if most else 0)
        if self._problem:
            note(
                "PipeFusion's hidden states go through the process group, which is slower, and not through host memory:"
                f" {WHY[self._problem]}"
            )

    def close(self) -> None:
        """Give the memory back. All stages call it, between model calls; there are no mailboxes afterwards."""
        _drop(self._before)
        _drop(self._after)

    def _make_room(self, needed: int) -> None:
        size = FLAG_BYTES + needed if needed > self._room else 0
        problem, descriptor = NONE, NO_FILE
        if size:
            try:
                descriptor = new_memory_file("xdit-mailbox", size)
            except OSError as error:
                problem = _noted(NO_MEMORY, error)
        own = (problem, os.getpid(), descriptor, size)
        offers = gather_numbers(own, self._stages.size, self._stages.group)
        if any(size for *_, size in offers):
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._problem = max(problem for problem, *_ in offers) or self._exchange(own, offers)
            if self._problem:
                _drop(self._before)
                _drop(self._after)
            self._room = max(needed, self._room)
            self.generation += 1
        if descriptor != NO_FILE:
            os.close(descriptor)

    def _exchange(self, own: tuple[int, ...], offers: list[tuple[int, ...]]) -> int:
        """Both ends of every link on which something is offered take it in the place of what they have. The largest
        problem of any stage.
        """
        problem = self._replace(self._after, own, self._after.sending, SENDER_SLOT)
        if not problem:
            theirs = offers[self._stages.index - 1]
            problem = self._replace(self._before, theirs, self._before.receiving, RECEIVER_SLOT)
        return self._stages.largest(problem)

    def _replace(self, way: Handover, offer: tuple[int, ...], lane: Lane, slot: int) -> int:
        """A mailbox in the memory file that is offered, if one is; what kept it from being made."""
        _, process, descriptor, size = offer
        if not size:
            return NONE
        _drop(way)
        try:
            arena = Arena(memory_file_path(process, descriptor), size)
        except RuntimeError as error:
            return _noted(NOT_MAPPED, error)
        if self._device.type == "cuda":
            try:
                arena.pin()
            except RuntimeError as error:
                return _noted(NOT_PINNED, error)
        try:
            way.mailbox = Mailbox(arena, self._flags(arena, way), collective_counts.beside(way.group, "mailbox"))
            lane.begin(functools.partial(way.mailbox.try_out, slot)).wait()
            lane.settle()
        except RuntimeError as error:
            arena.unpin()
            way.mailbox = None
            return _noted(NO_FLAGS, error)
        return NONE

    def _flags(self, arena: Arena, way: Handover) -> Values:
        if self._device.type == "cuda":
            return StreamValues(arena.address)
        timeout = dist.distributed_c10d._get_default_group()._get_backend(self._device).options._timeout.total_seconds()
        return PolledValues(arena.memory[:FLAG_BYTES].view(torch.int32), way.peer, timeout)


def _drop(way: Handover) -> None:
    if way.mailbox is not None:
        way.mailbox.arena.unpin()
        way.mailbox = None


def _noted(problem: int, error: Exception) -> int:
    logging.warning("no host memory between the stages of PipeFusion: %s", error)
    return problem
