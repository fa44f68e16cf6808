"""How a transfer runs beside the computation of its rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Waiting(Protocol):
    def wait(self) -> object:
        """What comes after, on the current stream or in this thread, finds the transfer done."""


class Lane(Protocol):
    def begin(self, transfer: Callable[[], None]) -> Waiting:
        """`transfer()`, one after the other, each after what the computation was given before."""

    def settle(self) -> None:
        """Return when all that was begun is done."""


class SideStream:
    """A CUDA stream, on which the copy engines are busy while the current one computes. What is begun in a capture
    becomes part of the CUDA graph; its wait() must then come before the end of the capture.
    """

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device, priority=-1)

    def begin(self, transfer: Callable[[], None]) -> Waiting:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            transfer()
            return self._stream.record_event()

    def settle(self) -> None:
        self._stream.synchronize()


class AtOnce:
    """In this thread, when it is begun."""

    def begin(self, transfer: Callable[[], None]) -> Waiting:
        transfer()
        return _Later(lambda: None)

    def settle(self) -> None:
        pass


class WhenWaitedFor:
    """In this thread, when it is waited for."""

    def begin(self, transfer: Callable[[], None]) -> Waiting:
        return _Later(transfer)

    def settle(self) -> None:
        pass


class _Later:
    def __init__(self, transfer: Callable[[], None]):
        self._transfer = transfer

    def wait(self) -> None:
        self._transfer()
