"""Starting a process group in the background: tried again when it fails, if need be without a device that fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..base.devices import DeviceSet
from ..base.errors import GroupError
from .process_group import ProcessGroup

RETRY_AFTER_SECONDS = (1.0, 2.0, 4.0)


class GroupStart:
    """One group on its way. `done` is set when `group` is ready, or `error` says why there is none.

    `new_group` starts one on the devices it is given. `replaces` is closed first. `may_leave_out`: a device that fails
    each time is left out, up to half of them, and `left_out` (indices) from then on, also in the starts that replace
    this one.
    """

    def __init__(
        self,
        devices: DeviceSet,
        may_leave_out: bool,
        new_group: Callable[[DeviceSet], ProcessGroup],
        replaces: GroupStart | None = None,
    ):
        self.devices = devices
        self.may_leave_out = may_leave_out
        self.done = threading.Event()
        self.group: ProcessGroup | None = None
        self.left_out: tuple[int, ...] = ()
        if replaces is not None and replaces.devices == devices and may_leave_out:
            self.left_out = replaces.left_out
        self.error: GroupError | None = None
        self._new_group = new_group
        self._replaces = replaces
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="xdit-start", daemon=True)
        self._thread.start()

    def usable(self) -> bool:
        """Whether it still makes a group, or made one that lives."""
        if self._abandoned.is_set():
            return False
        return not self.done.is_set() or (self.group is not None and self.group.alive())

    def result(self) -> ProcessGroup:
        """The group, once `done`. Raises the GroupError for which there is none."""
        if self.error is not None:
            raise self.error
        assert self.group is not None, "this start is not done"
        return self.group

    @property
    def abandoned(self) -> bool:
        """Whether it was ended, or its group, because nobody wants it."""
        return self._abandoned.is_set()

    def abandon(self) -> None:
        """Nobody wants this group: end it, or its start, and wait for that."""
        self._abandoned.set()
        self._thread.join()
        if self.group is not None:
            self.group.close()

    def _run(self) -> None:
        try:
            if self._replaces is not None:
                self._replaces.abandon()
                self._replaces = None
            self.group = self._start_with_what_works()
        except GroupError as error:
            self.error = error
        except BaseException as error:  # whoever waits needs a reason, whatever it is
            logging.exception("xDiT: starting %s", self.devices)
            self.error = GroupError(f"{self.devices} cannot be started: {type(error).__name__}: {error}")
        finally:
            self.done.set()

    def _start_with_what_works(self) -> ProcessGroup:
        left_out = self.left_out
        try:
            return self._start(self._without(left_out), (*RETRY_AFTER_SECONDS, None))
        except StartFailed as error:
            first = failed = error
        while (rank := self._to_leave_out(failed, len(left_out) + 1)) is not None:
            index = self._without(left_out).indices[rank]
            left_out = (*left_out, index)
            logging.warning("xDiT: %s is left out: %s", self.devices.name(self.devices.indices.index(index)), failed)
            try:
                group = self._start(self._without(left_out), (None,))
            except StartFailed as error:
                failed = error
            else:
                self.left_out = left_out
                return group
        raise first

    def _to_leave_out(self, failed: GroupError, number: int) -> int | None:
        """The rank whose device may be left out because of `failed`, as the one of that `number`: it is that device's
        own fault, and half of them remain. None where that is not so.
        """
        if not self.may_leave_out or failed.lasting or 2 * number > self.devices.size:
            return None
        return failed.rank

    def _without(self, left_out: tuple[int, ...]) -> DeviceSet:
        return DeviceSet(self.devices.kind, tuple(index for index in self.devices.indices if index not in left_out))

    def _start(self, devices: DeviceSet, waits: tuple[float | None, ...]) -> ProcessGroup:
        """A ready group. After a failed try it waits so many seconds and tries again, until `waits` says None.

        Raises StartFailed, its `rank` the one that failed each time.
        """
        failures: list[GroupError] = []
        for wait in waits:
            try:
                return self._ready(devices)
            except GroupError as error:
                failures.append(error)
                if self._abandoned.is_set() or wait is None or error.lasting:
                    break
                logging.warning("xDiT: starting %s failed, next try in %g s: %s", devices, wait, error)
                self._abandoned.wait(wait)
        ranks = {failure.rank for failure in failures}
        raise StartFailed(
            f"{devices} cannot be started, tried {len(failures)} time(s). First cause: {failures[0]}",
            ranks.pop() if len(ranks) == 1 else None,
            failures[-1].lasting,
        )

    def _ready(self, devices: DeviceSet) -> ProcessGroup:
        """A group that is ready; nothing of one that is not goes on. Raises GroupError."""
        group = self._new_group(devices)
        try:
            group.wait_until_ready(self._abandoned)
        except BaseException:
            group.kill()
            raise
        return group


class StartFailed(GroupError):
    """No try to start a group succeeded."""
