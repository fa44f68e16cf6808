"""Signs of life, from threads beside the main one: heartbeats, and where the main thread stands when asked."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import comfy.model_management
import torch

from ...contract.commands import Ask
from ...contract.reports import (
    IDLE,
    LOADING,
    SAMPLING,
    Heartbeat,
    Memory,
    Reading,
    Standing,
)
from ...sharding.exchange import collective_counts
from ...system.threads import vital_thread
from ...transport.channel import ChannelClosed
from .cancel import CancelFlag

HEARTBEAT_SECONDS = 1.0
LOADING_SECONDS = 0.25  # the same while loading, for the progress bar
STACK_FRAMES = 12


class Pulse:
    """`activity` is set by the main thread (IDLE, LOADING, SAMPLING), `sampling` when it begins a request, `reading`
    while it reads weights. `resident` gives what Standing calls models.
    """

    def __init__(self, device: torch.device):
        self.activity = IDLE
        self.resident: Callable[[], tuple[tuple[str, int], ...]] = tuple
        self.reading: Callable[[], Reading | None] = no_reading
        self._device = device
        self._main = threading.get_ident()
        self._flag = CancelFlag()
        self._stopped = threading.Event()
        self._looking = threading.Lock()

    def sampling(self, flag: CancelFlag) -> None:
        self._flag = flag
        self.activity = SAMPLING

    def beat(self, send: Callable[[Any], None]) -> None:
        """Send heartbeats in the background from now on, until the channel is closed."""
        vital_thread("xdit-heartbeat", self._beat, send)

    def stop(self) -> None:
        """No further heartbeat, and nobody looks at the process groups from now on: they are about to end."""
        self._stopped.set()
        with self._looking:
            pass

    def _beat(self, send: Callable[[Any], None]) -> None:
        while not self._stopped.is_set():
            try:
                send(self._heartbeat())
            except ChannelClosed:
                return  # the link's reader ends the process
            self._stopped.wait(LOADING_SECONDS if self.activity == LOADING else HEARTBEAT_SECONDS)

    def _heartbeat(self) -> Heartbeat:
        reading = self.reading() if self.activity == LOADING else None
        return Heartbeat(self.activity, self._flag.asked + sum(self._begun().values()), reading)

    def _begun(self) -> dict[str, int]:
        with self._looking:
            return {} if self._stopped.is_set() else collective_counts.begun()

    def standing(self, question: Ask) -> Standing:
        if not question.stacks:
            return Standing(memory=memory(self._device), models=self.resident(), question=question.number)
        frame = sys._current_frames()[self._main]
        stack = tuple(traceback.format_stack(frame)[-STACK_FRAMES:])
        return Standing(stack, self._begun(), question=question.number)


def no_reading() -> None:
    """What heartbeats say while no weights are read."""


def memory(device: torch.device) -> Memory:
    free = int(comfy.model_management.get_free_memory(device))
    total = int(comfy.model_management.get_total_memory(device))
    if device.type != "cuda":
        return Memory(free, total)
    reserved = torch.cuda.memory_reserved(device)
    return Memory(free, total, reserved, reserved - torch.cuda.memory_allocated(device))
