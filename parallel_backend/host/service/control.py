"""What a person may do to the idle process group: have its ranks drop their weights, or end it."""

from __future__ import annotations

import contextlib

from ..group.manager import InUse, manager
from ..group.release import free
from ..run.preload import preloads

NO_RANKS = "No ranks are running."


def unload() -> str:
    """The ranks drop every weight and cache, and go on. Returns what was done.

    Raises InUse while a prompt uses them, RequestRefused or GroupError when it fails.
    """
    with _idle():
        start = manager.start
        group = start.group if start is not None else None
        if group is None or not group.alive():
            return NO_RANKS
        if group.leftover is not None and not group.leftover.done.is_set():
            raise InUse("The ranks still finish what a cancelled prompt began. Try again in a moment.")
        free(group)
    return "The ranks dropped their weights. The next prompt reads them again."


def restart() -> str:
    """End the ranks. Returns what was done. Raises InUse while a prompt uses them."""
    with _idle():
        if manager.start is None:
            return NO_RANKS
        manager.close()
    return "The ranks were ended. The next prompt starts new ones."


def _idle() -> contextlib.AbstractContextManager[None]:
    """No prompt uses the ranks while this lasts, and nothing is preloaded. Raises InUse."""
    if not manager.in_use:
        preloads.drop()
    return manager.idle()
