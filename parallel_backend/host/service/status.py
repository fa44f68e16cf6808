"""What the process group is and does now, for people: gathered from events, and from the ranks when asked."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import psutil
from comfy.model_management import InterruptProcessingException

from ...contract.reports import Standing
from ..base import events
from ..base.devices import DeviceSet
from ..group.manager import GroupManager
from ..group.process_group import ProcessGroup
from ..run.preload import Preloads

# What the group is doing. "preloading": it is idle but for that; "lost": it ended by itself; "failed": no start.
NONE, STARTING, IDLE, PRELOADING, WORKING = "none", "starting", "idle", "preloading", "working"
LOST, FAILED = "lost", "failed"

# Phases of a run; after them it is "done", "failed" or "cancelled".
RUNNING = LOADING, SAMPLING = "loading", "sampling"


@dataclass
class Run:
    """The last sampling run; `total` is 0 until its first step is done, `seconds` those of its last step. `read`: the
    share of its weights that is read, once it is known that it reads any.
    """

    devices: str
    degrees: str
    phase: str = LOADING
    read: float | None = None
    step: int = 0
    total: int = 0
    seconds: float | None = None
    began: float | None = None  # the step that it is in: an event's time

    def take(self, event: events.WeightsRead | events.StepsStarted | events.StepDone) -> None:
        """What this run has come to."""
        match event:
            case events.WeightsRead():
                self.read = event.share
            case events.StepsStarted():
                self.phase, self.began = SAMPLING, event.time
            case events.StepDone():
                self.step, self.total = event.step, event.total
                if self.began is not None:
                    self.seconds = event.time - self.began
                self.began = event.time

    def as_dict(self) -> dict[str, Any]:
        return {
            "devices": self.devices,
            "degrees": self.degrees,
            "phase": self.phase,
            "read": self.read,
            "step": self.step,
            "total": self.total,
            "seconds_per_step": self.seconds,
        }


class Status:
    """Knows what happened since it was made."""

    def __init__(self, manager: GroupManager, preloads: Preloads):
        self._manager = manager
        self._preloads = preloads
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._last_group: DeviceSet | None = None
        self._restarts = 0
        self._failure: tuple[float, str] | None = None

    def on_event(self, event: events.Event) -> None:
        """Take one event of the host; for `events.subscribe`."""
        with self._lock:
            match event:
                case events.GroupStarted():
                    self._restarts += event.devices == self._last_group
                    self._last_group = event.devices
                case events.RunStarted():
                    self._run = Run(str(event.devices), event.degrees)
                case events.WeightsRead() | events.StepsStarted() | events.StepDone():
                    if self._run is not None:  # else the run began before this was made
                        self._run.take(event)
                case events.RunEnded():
                    self._end(event)

    def _end(self, event: events.RunEnded) -> None:
        cancelled = isinstance(event.error, InterruptProcessingException)
        if self._run is not None and self._run.phase in RUNNING:  # else this one failed before it began
            self._run.phase = "cancelled" if cancelled else "failed" if event.error is not None else "done"
        if event.error is not None and not cancelled:
            self._failure = (event.time, f"{type(event.error).__name__}: {event.error}")

    def snapshot(self) -> dict[str, Any]:
        """Everything as JSON values; sizes in bytes. The ranks are asked, so this may take a moment.

        `run` is the last one; it goes on while `state` is "working".
        """
        state, group = self._state()
        with self._lock:
            facts = {
                "state": state,
                "run": self._run.as_dict() if self._run is not None else None,
                "restarts": self._restarts,
                "failure": self._failure and {
                    "seconds_ago": time.monotonic() - self._failure[0],
                    "what": self._failure[1],
                },
            }  # fmt: skip
        return {**facts, "devices": str(group.devices) if group else None, "ranks": _ranks(group) if group else []}

    def _state(self) -> tuple[str, ProcessGroup | None]:
        start, in_use = self._manager.start, self._manager.in_use
        if start is None:
            return NONE, None
        if not start.done.is_set():
            return STARTING, None
        if start.group is None:
            return FAILED, None
        if not start.group.alive():
            return LOST, None
        cancelled = start.group.leftover is not None and not start.group.leftover.done.is_set()
        if in_use or cancelled:
            return WORKING, start.group
        return PRELOADING if self._preloads.any() else IDLE, start.group


def _ranks(group: ProcessGroup) -> list[dict[str, Any]]:
    standing = group.ask(stacks=False)
    return [
        {
            "rank": rank.rank,
            "device": group.devices.name(rank.rank),
            "pid": rank.process.pid,
            "ram": _resident_ram(rank.process.pid),
            **memory_of(standing.get(rank.rank), group.devices.kind == "cuda"),
        }
        for rank in group.ranks
    ]


def memory_of(standing: Standing | None, of_gpu: bool) -> dict[str, Any]:
    """The models of a rank, and of its GPU's memory: weights / other (of any process) / free. None: no answer."""
    if standing is None:
        return {"models": None, "memory": None}
    models = [{"title": title, "bytes": size} for title, size in standing.models]
    if not of_gpu:
        return {"models": models, "memory": None}
    weights, memory = sum(size for _, size in standing.models), standing.device_memory
    other = max(0, memory.total - memory.free - weights)
    return {
        "models": models,
        "memory": {"weights": weights, "other": other, "free": memory.free, "total": memory.total},
    }


def _resident_ram(pid: int) -> int | None:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.NoSuchProcess:
        return None
