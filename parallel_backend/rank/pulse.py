"""Signs of life, from threads beside the main one: heartbeats, and where the main thread stands when asked."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import comfy.model_management
import torch

from ..protocol import IDLE, SAMPLING, Ask, Heartbeat, Memory, Standing
from ..sharding import counts
from ..transport.channel import ChannelClosed
from .cancel import CancelFlag

HEARTBEAT_SECONDS = 1.0
STACK_FRAMES = 12


class Pulse:
    """`activity` is set by the main thread (IDLE, LOADING, SAMPLING), `sampling` when it begins a request. `resident`
    gives what Standing calls models.
    """

    def __init__(self, device: torch.device):
        self.activity = IDLE
        self.resident: Callable[[], tuple[tuple[str, int], ...]] = tuple
        self._device = device
        self._main = threading.get_ident()
        self._flag = CancelFlag()

    def sampling(self, flag: CancelFlag) -> None:
        self._flag = flag
        self.activity = SAMPLING

    def beat(self, send: Callable[[Any], None]) -> None:
        """Send heartbeats in the background from now on, until the channel is closed."""
        threading.Thread(target=self._beat, args=(send,), name="xdit-heartbeat", daemon=True).start()

    def _beat(self, send: Callable[[Any], None]) -> None:
        while True:
            progress = self._flag.asked + sum(counts.begun().values())
            try:
                send(Heartbeat(self.activity, progress))
            except ChannelClosed:
                return  # the link's reader ends the process
            time.sleep(HEARTBEAT_SECONDS)

    def standing(self, question: Ask) -> Standing:
        if not question.stacks:
            return Standing(memory=memory(self._device), models=self.resident())
        frame = sys._current_frames()[self._main]
        return Standing(tuple(traceback.format_stack(frame)[-STACK_FRAMES:]), counts.begun())


def memory(device: torch.device) -> Memory:
    free, cached = comfy.model_management.get_free_memory(device, torch_free_too=True)
    total = comfy.model_management.get_total_memory(device)
    return Memory(int(free), int(total), int(cached) if device.type == "cuda" else 0)
