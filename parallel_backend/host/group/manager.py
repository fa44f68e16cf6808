"""The one process group of this ComfyUI: started when first needed, kept, replaced when lost or the devices change."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import threading
from collections.abc import Iterator

import comfy.model_management

from ...contract.config import ConfigError
from ..base.devices import DeviceSet, require_linux
from ..base.errors import GroupError
from ..base.events import Events, prompt_id
from ..base.limits import Limits
from ..launch.rank_launch import Launcher
from .process_group import POLL_SECONDS, ProcessGroup
from .start import GroupStart

SILENT_WAIT_SECONDS = 0.5
GROUPS_PER_PROMPT = 4


class InUse(RuntimeError):
    """A prompt uses the process group, so it cannot be touched now."""


class GroupManager:
    """`events` hears of what happens to its groups, and to the runs on them."""

    def __init__(self, events: Events):
        self.events = events
        self._launcher = Launcher()
        self._lock = threading.Lock()
        self._start: GroupStart | None = None
        self._started_for: str | None = None  # the prompt whose error a failed start is
        self._prompt: tuple[str, DeviceSet] | None = None
        self._using = threading.RLock()
        self.in_use = False  # a prompt waits for a group, or works with it
        self._background: threading.Event | None = None
        atexit.register(self.close)

    @property
    def start(self) -> GroupStart | None:
        """The start of the present group, also when it failed; None when no group was wanted yet, or since `close`."""
        return self._start

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Around everything that a prompt does with a group. Raises InterruptProcessingException."""
        before, self.in_use = self.in_use, True
        try:
            if (background := self._background) is not None:
                background.set()
            while not self._using.acquire(timeout=POLL_SECONDS):
                comfy.model_management.throw_exception_if_processing_interrupted()
            try:
                yield
            finally:
                self._using.release()
        finally:
            self.in_use = before

    @contextlib.contextmanager
    def background(self, stop: threading.Event) -> Iterator[None]:
        """Use a group while no prompt does; waits until then, or until `stop` is set: do nothing in that case. A prompt
        that comes sets it, and waits until this ends.
        """
        self._background = stop  # first, so that a prompt that comes right now is seen by one of the two
        held = False
        try:
            while not stop.is_set() and not held:
                held = not self.in_use and self._using.acquire(timeout=POLL_SECONDS)
                if not held:
                    stop.wait(POLL_SECONDS)
            yield
        finally:
            self._background = None
            if held:
                self._using.release()

    @contextlib.contextmanager
    def idle(self, seconds: float = 0.0) -> Iterator[None]:
        """No prompt uses the group while this lasts; those that want to wait. Raises InUse when it is still in use
        after so many seconds.
        """
        if not self._using.acquire(timeout=seconds):
            raise InUse("A prompt is using the ranks. Cancel it or wait for its end, then try again.")
        try:
            yield
        finally:
            self._using.release()

    def group(self, devices: DeviceSet, may_leave_out: bool) -> ProcessGroup:
        """A ready, idle group on `devices`, or on fewer of them if one cannot be started and `may_leave_out`.

        Raises ConfigError when this prompt already uses others, GroupError when it cannot start, and
        InterruptProcessingException when Cancel is pressed; then the group goes on starting for the next prompt.
        """
        require_linux()
        self._one_device_set_per_prompt(devices)
        for _ in range(GROUPS_PER_PROMPT):
            group = self._ready(devices, may_leave_out)
            if group is not None:
                return group
        raise GroupError(f"{devices}: ranks ended right after their start, {GROUPS_PER_PROMPT} times; see their logs")

    def _ready(self, devices: DeviceSet, may_leave_out: bool) -> ProcessGroup | None:
        """Wait for the group that is wanted now; None when it turns out not to serve, and another one is wanted."""
        start = self._wanted(devices, may_leave_out)
        _wait(start.done, f"{devices} to start")
        try:
            group = start.result()
        except GroupError:
            self._forget(start)
            raise
        if start.left_out and not may_leave_out:  # it was started for a sampler that takes fewer devices
            return None
        leftover = group.leftover
        if leftover is not None:
            _wait(leftover.done, f"{devices} to finish what a cancelled prompt began")
            group.leftover = None
        return group if group.healthy() else None

    def warm_up(self, devices: DeviceSet, may_leave_out: bool) -> GroupStart | None:
        """Start a group in the background, so that it is ready when the sampler needs it. None: there is one on other
        devices, which only a sampler may end.
        """
        require_linux()
        self._one_device_set_per_prompt(devices)
        if self._start is None or self._start.devices == devices:
            return self._wanted(devices, may_leave_out)
        return None

    def _wanted(self, devices: DeviceSet, may_leave_out: bool) -> GroupStart:
        """The start of a group on these devices: the one there is, or a new one in its place."""
        prompt = prompt_id()
        with self._lock:
            start = self._start
            if start is not None and start.devices == devices and (may_leave_out or not start.left_out):
                if start.usable() or (start.error is not None and self._started_for == prompt):
                    return start
            new_group = functools.partial(self._new_group, Limits.from_environment())
            self._start = GroupStart(devices, may_leave_out, new_group, replaces=start)
            self._started_for = prompt
            return self._start

    def _new_group(self, limits: Limits, devices: DeviceSet) -> ProcessGroup:
        return ProcessGroup(devices, limits, self._launcher, self.events)

    def _forget(self, start: GroupStart) -> None:
        with self._lock:
            if self._start is start:
                self._start = None

    def _one_device_set_per_prompt(self, devices: DeviceSet) -> None:
        prompt = prompt_id()
        if prompt is None:
            return
        if self._prompt is not None and self._prompt[0] == prompt and self._prompt[1] != devices:
            raise ConfigError(
                f"this workflow asks for two sets of devices, {self._prompt[1]} and {devices}; one workflow runs on one"
                " set: connect the same Parallel Config to every xDiT node"
            )
        self._prompt = (prompt, devices)

    def close(self) -> None:
        with self._lock:
            start, self._start = self._start, None
        if start is not None:
            start.abandon()


def _wait(done: threading.Event, what: str) -> None:
    """Wait for `done`, saying so when it takes a while. Cancel ends the wait, and nothing else."""
    if done.wait(SILENT_WAIT_SECONDS):
        return
    logging.info("xDiT: waiting for %s", what)
    while not done.wait(POLL_SECONDS):
        comfy.model_management.throw_exception_if_processing_interrupted()
