"""Idle groups let go, where ComfyUI's environment says when: their weights first, then their processes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..base import events
from ..base.errors import GroupError, OutOfMemory, RequestRefused
from ..base.limits import Limits
from ..group.manager import GroupManager, InUse
from .control import Control


class IdleRelease:
    """Counts from the end of the last run or preload, or from the start of a group that nothing used yet."""

    def __init__(self, manager: GroupManager, control: Control):
        self._manager = manager
        self._control = control
        self._lock = threading.Lock()
        self._timers: list[threading.Timer] = []

    def on_event(self, event: events.Event) -> None:
        """Take one event of the host; for `events.subscribe`."""
        match event:
            case events.RunStarted():
                self._restart(None)
            case events.GroupStarted() | events.PreloadEnded() | events.RunEnded():
                self._restart(Limits.from_environment())

    def _restart(self, limits: Limits | None) -> None:
        with self._lock:
            for timer in self._timers:
                timer.cancel()
            self._timers.clear()
            if limits is not None:
                self._start(limits.idle, self._control.unload)
                self._start(limits.idle_end, self._end)

    def _start(self, seconds: float | None, act: Callable[[], str]) -> None:
        if seconds is None:
            return
        timer = threading.Timer(seconds, self._let_go, (seconds, act))
        timer.name, timer.daemon = "xdit-idle", True
        timer.start()
        self._timers.append(timer)

    def _let_go(self, seconds: float, act: Callable[[], str]) -> None:
        try:
            done = act()
        except InUse:  # by a run that goes on, or by what is left of a cancelled one: count anew
            self._restart(Limits.from_environment())
        except (GroupError, RequestRefused, OutOfMemory) as error:
            logging.error("xDiT: after %g idle seconds: %s", seconds, error)
        else:
            logging.info("xDiT: idle for %g s. %s", seconds, done)

    def _end(self) -> str:
        start = self._manager.start
        if start is not None and not start.done.is_set():
            raise InUse("a prompt is starting ranks")
        return self._control.restart()
