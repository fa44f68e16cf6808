"""Whether the host cancelled a request."""

from __future__ import annotations

import threading


class Cancelled(RuntimeError):
    """What was being prepared is not wanted any more."""


class CancelFlag:
    """Asked at every step boundary, so the number of questions is also how far the rank has come (`asked`)."""

    def __init__(self):
        self._event = threading.Event()
        self.asked = 0

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        self.asked += 1
        return self._event.is_set()

    def throw_if_set(self) -> None:
        """Raises Cancelled."""
        if self.is_set():
            raise Cancelled("the host cancelled it")
