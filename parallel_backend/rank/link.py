"""This rank's end of its private channel: commands in order, cancels at once; the rank ends when the host does."""

from __future__ import annotations

import os
import queue
import threading
from typing import Any

from ..protocol import Cancel, decode, encode
from ..transport.channel import Channel, ChannelClosed


class HostLink:
    """A reader thread feeds `commands` with (message, descriptors). When the host is gone the process ends at once,
    also while the main thread is inside a collective.
    """

    def __init__(self, descriptor: int):
        self._channel = Channel.from_descriptor(descriptor)
        self.commands: queue.SimpleQueue[tuple[Any, tuple[int, ...]]] = queue.SimpleQueue()
        self._cancelled: dict[int, threading.Event] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._read, name="xdit-host-link", daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                payload, descriptors = self._channel.receive()
            except ChannelClosed:
                os._exit(0)
            message = decode(payload)
            if isinstance(message, Cancel):
                self.cancelled(message.request).set()
            else:
                self.commands.put((message, descriptors))

    def cancelled(self, request: int) -> threading.Event:
        """Set once the host cancels this request."""
        with self._lock:
            return self._cancelled.setdefault(request, threading.Event())

    def done(self, request: int) -> None:
        with self._lock:
            self._cancelled.pop(request, None)

    def send(self, message: Any) -> None:
        self._channel.send(encode(message))
