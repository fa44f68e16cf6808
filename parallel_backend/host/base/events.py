"""What happens to process groups and sampling runs, told to whoever subscribed (metrics, a status panel).

The host's code calls `emit`; it neither knows nor needs a subscriber. Events come in the thread in which they happen:
ComfyUI's prompt worker, or the warm-up's for a group.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from comfy_execution.utils import get_executing_context

from .devices import DeviceSet


@dataclass(frozen=True, kw_only=True)
class Event:
    """`time`: time.monotonic() when it happened."""

    time: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class GroupStarted(Event):
    """Every rank is ready, `seconds` after the start; `pids` in rank order."""

    devices: DeviceSet
    pids: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class GroupEnded(Event):
    """The ranks are told to end, or one of them is gone. Also follows a start that failed; `pids` of those started."""

    devices: DeviceSet
    pids: tuple[int, ...]


@dataclass(frozen=True)
class RunStarted(Event):
    """The group is ready and works for this run from here on, divided by `degrees`."""

    prompt: str | None
    devices: DeviceSet
    degrees: str


@dataclass(frozen=True)
class WeightsRead(Event):
    """`share` (0 to 1) of the weights that this run needs is read in every rank at least."""

    share: float


@dataclass(frozen=True)
class StepsStarted(Event):
    """Every rank holds the model and was told to go."""


@dataclass(frozen=True)
class StepDone(Event):
    """`step` (from 1) of `total` is done."""

    step: int
    total: int


@dataclass(frozen=True)
class PreloadEnded(Event):
    """Ranks no longer read weights ahead of a run, whether they have them or not."""


@dataclass(frozen=True)
class RunEnded(Event):
    """The end of a run, also of one that failed before RunStarted. `error`: what it raised, Cancel included."""

    prompt: str | None
    error: BaseException | None


class Events:
    """Passes every event on to whoever subscribed."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Event], None]] = []

    def subscribe(self, callback: Callable[[Event], None]) -> None:
        """Call `callback` with every event from now on. What it raises is logged and stops nothing."""
        self._subscribers.append(callback)

    def emit(self, event: Event) -> None:
        for callback in self._subscribers:
            try:
                callback(event)
            except Exception:  # watching must not break what is watched
                logging.exception("xDiT: a subscriber failed on %s", type(event).__name__)

    def observed(
        self,
        run: Callable,
        executor: Any,
        arguments: dict[str, Any],
        callback: Callable | None,
        disable_pbar: bool,
        **others: Any,
    ) -> Any:
        """`run(executor, arguments, callback, disable_pbar, **others)`, its steps and its end told as events."""
        prompt = prompt_id()
        steps = self._told(callback) if callback is not None else None
        try:
            result = run(executor, arguments, steps, disable_pbar, **others)
        except BaseException as error:
            self.emit(RunEnded(prompt, error))
            raise
        self.emit(RunEnded(prompt, None))
        return result

    def _told(self, callback: Callable) -> Callable:
        """`callback` with its steps told as events. As `__wrapped__` it says what it may do, no more."""

        def on_step(step, x0, x, total):
            self.emit(StepDone(step + 1, total))
            callback(step, x0, x, total)

        return functools.update_wrapper(on_step, callback, assigned=(), updated=())


def prompt_id() -> str | None:
    """The prompt that ComfyUI executes in this thread."""
    context = get_executing_context()
    return context.prompt_id if context is not None else None
