"""Sending without waiting: frames for a rank go out from a thread of their own, so a rank that does not read (stopped,
swapped out, in a debugger) keeps nobody waiting who has Cancel, a deadline or other ranks to look after.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

from ..system.threads import watched_thread
from .channel import Channel, ChannelClosed

Frame = tuple[bytes, tuple[int, ...]]


class Outbox:
    """Frames to one channel, in order. `send` may be called from several threads and never waits. `failed` is called
    in the sending thread when it ends by anything but the channel's end: nothing is sent any more.
    """

    def __init__(self, channel: Channel, name: str, failed: Callable[[BaseException], None]):
        self._channel = channel
        self._frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        watched_thread(f"xdit-send-{name}", self._run, failed=failed)

    def send(self, payload: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Leave a frame to be sent. The descriptors are duplicated, so the caller may close its own at once.

        Raises ChannelClosed when the other end is known to be gone.
        """
        with self._lock:
            if self._closed:
                raise ChannelClosed("the other end of the channel is gone")
            self._frames.put((payload, tuple(os.dup(descriptor) for descriptor in descriptors)))

    def close(self) -> None:
        """Drop what was not sent. The channel has to be closed too, for a frame that is on its way."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._frames.put(None)

    def _run(self) -> None:
        while (frame := self._frames.get()) is not None:
            payload, descriptors = frame
            try:
                if not self._closed:
                    self._channel.send(payload, descriptors)
            except ChannelClosed:
                self.close()
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
