"""This rank's end of its private channel: commands in order, cancels and questions at once.

The rank ends when the host does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from ...contract.commands import Ask, Cancel, StepAnswer
from ...contract.encoding import decode, encode
from ...contract.reports import Standing
from ...system.threads import vital_thread
from ...transport.channel import Channel, ChannelClosed
from .cancel import CancelFlag


class HostLink:
    """A reader thread feeds `commands` with (message, descriptors), `answers` with those to a sampler's steps, and
    answers Ask with `answer`. When the host is gone, or a question cannot be answered, the process ends at once, also
    while the main thread is inside a collective.
    """

    def __init__(self, descriptor: int, answer: Callable[[Ask], Standing]):
        self._channel = Channel.from_descriptor(descriptor)
        self._answer = answer
        self.commands: queue.SimpleQueue[tuple[Any, tuple[int, ...]]] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[StepAnswer] = queue.SimpleQueue()
        self._cancelled: dict[int, CancelFlag] = {}
        self._lock = threading.Lock()
        vital_thread("xdit-host-link", self._read)

    def _read(self) -> None:
        while True:
            try:
                payload, descriptors = self._channel.receive()
            except ChannelClosed:
                os._exit(0)
            message = decode(payload)
            if isinstance(message, Cancel):
                self.cancelled(message.request).set()
                logging.info("request %s is cancelled", message.request)
            elif isinstance(message, StepAnswer):
                self._put_answer(message)
            elif isinstance(message, Ask):
                self.send(self._answer(message))
            else:
                self.commands.put((message, descriptors))

    def _put_answer(self, answer: StepAnswer) -> None:
        """The newest only: every rank gets it, one of them waits for it."""
        self._forget_answers()
        self.answers.put(answer)

    def _forget_answers(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self.answers.get_nowait()

    def cancelled(self, request: int) -> CancelFlag:
        """Set once the host cancels this request."""
        with self._lock:
            return self._cancelled.setdefault(request, CancelFlag())

    def done(self, request: int) -> None:
        with self._lock:
            self._cancelled.pop(request, None)
        self._forget_answers()

    def send(self, message: Any) -> None:
        self._channel.send(encode(message))
