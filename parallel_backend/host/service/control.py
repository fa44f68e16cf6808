"""What a person may do to the idle process group: have its ranks drop their weights, or end it."""

from __future__ import annotations

import contextlib

from ..group.manager import GroupManager, InUse
from ..group.release import free
from ..run.preload import Preloads

NO_RANKS = "No ranks are running."


class Control:
    """What the sidebar's buttons and the idle timers do."""

    def __init__(self, manager: GroupManager, preloads: Preloads):
        self._manager = manager
        self._preloads = preloads

    def unload(self) -> str:
        """The ranks drop every weight and cache, and go on. Returns what was done.

        Raises InUse while a prompt uses them, RequestRefused or GroupError when it fails.
        """
        with self._idle():
            start = self._manager.start
            group = start.group if start is not None else None
            if group is None or not group.alive():
                return NO_RANKS
            if group.leftover is not None and not group.leftover.done.is_set():
                raise InUse("The ranks still finish what a cancelled prompt began. Try again in a moment.")
            free(group)
        return "The ranks dropped their weights. The next prompt reads them again."

    def restart(self) -> str:
        """End the ranks. Returns what was done. Raises InUse while a prompt uses them."""
        with self._idle():
            if self._manager.start is None:
                return NO_RANKS
            self._manager.close()
        return "The ranks were ended. The next prompt starts new ones."

    def _idle(self) -> contextlib.AbstractContextManager[None]:
        """No prompt uses the ranks while this lasts, and nothing is preloaded. Raises InUse."""
        if not self._manager.in_use:
            self._preloads.drop()
        return self._manager.idle()
