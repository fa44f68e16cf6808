"""What a person may do to the idle process group: have its ranks drop their weights, or end it."""

from __future__ import annotations

import time

from ..protocol import FreeMemory
from .answers import Answers
from .errors import GroupError
from .group import ProcessGroup
from .manager import InUse, manager

UNLOAD_SECONDS = 60.0
NO_RANKS = "No ranks are running."


def unload() -> str:
    """The ranks drop every weight and cache, and go on. Returns what was done.

    Raises InUse while a prompt uses them, RequestRefused or GroupError when it fails.
    """
    with manager.idle():
        start = manager.start
        group = start.group if start is not None else None
        if group is None or not group.alive():
            return NO_RANKS
        if group.leftover is not None and not group.leftover.done.is_set():
            raise InUse("The ranks still finish what a cancelled prompt began. Try again in a moment.")
        _free(group)
    return "The ranks dropped their weights. The next prompt reads them again."


def restart() -> str:
    """End the ranks. Returns what was done. Raises InUse while a prompt uses them."""
    with manager.idle():
        if manager.start is None:
            return NO_RANKS
        manager.close()
    return "The ranks were ended. The next prompt starts new ones."


def _free(group: ProcessGroup) -> None:
    number = group.next_request()
    answers = Answers(group, number)
    group.resident.clear()
    group.send(FreeMemory(number))
    deadline = time.monotonic() + UNLOAD_SECONDS
    while not answers.complete():
        answers.take()
        if time.monotonic() > deadline:
            raise group.lose(lambda: GroupError(f"the ranks did not drop their weights within {UNLOAD_SECONDS:g} s"))
    answers.raise_failure()
