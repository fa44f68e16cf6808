"""Notices ranks that live no more or go on no more, and says where each of them stands before they are ended."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ...contract.reports import (
    LOADING,
    SAMPLING,
    Heartbeat,
    Reading,
    Standing,
)
from ...system.threads import watched_thread
from ..base.devices import DeviceSet
from ..base.errors import GroupError
from ..base.limits import Limits
from ..launch.rank_launch import RankProcess

TICK_SECONDS = 1.0
LONGEST_TICK = 2.0
SETTINGS = {SAMPLING: "XDIT_STALL_TIMEOUT", LOADING: "XDIT_LOADING_TIMEOUT"}


class Watched(Protocol):
    """What is asked of a process group that is watched."""

    devices: DeviceSet

    @property
    def size(self) -> int: ...

    @property
    def ranks(self) -> Sequence[RankProcess]: ...

    def name(self, rank: int) -> str: ...

    def ask(self, stacks: bool, ranks: set[int] | None = None) -> dict[int, Standing]: ...

    def lose(self, cause: Callable[[], GroupError]) -> GroupError: ...


class Watch:
    """A thread beside a process group. Time is counted in its own ticks: while the whole machine or ComfyUI stands
    still (suspend, debugger), no rank is blamed.
    """

    def __init__(self, group: Watched, limits: Limits):
        self._group = group
        self._limits = limits
        self._ended = threading.Event()
        size = group.devices.size
        self._heard = [False] * size
        self._beats: list[Heartbeat | None] = [None] * size
        self._silent = [0.0] * size
        self._stalled = [0.0] * size
        self._seen: list[Heartbeat | None] = [None] * size
        self._stall = {SAMPLING: limits.stall, LOADING: limits.loading}

    def start(self) -> None:
        watched_thread("xdit-watch", self._run, failed=self._failed)

    def _failed(self, error: BaseException) -> None:
        """Nobody looks after the ranks any more."""
        self._group.lose(lambda: GroupError(f"the watch over the ranks ended: {type(error).__name__}: {error}"))

    def stop(self) -> None:
        self._ended.set()

    def heard(self, rank: int, message: Any) -> None:
        """A message came, whatever it says."""
        self._heard[rank] = True
        if isinstance(message, Heartbeat):
            self._beats[rank] = message

    def reading(self, rank: int) -> Reading | None:
        """What the rank's last heartbeat said of it."""
        beat = self._beats[rank]
        return beat.reading if beat is not None else None

    def silent(self) -> set[int]:
        """Ranks that gave no sign of life lately, for a second at least."""
        return {rank for rank, seconds in enumerate(self._silent) if seconds}

    def _run(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(TICK_SECONDS):
            now = time.monotonic()
            self._tick(min(now - before, LONGEST_TICK))
            before = now

    def _tick(self, seconds: float) -> None:
        for rank in range(self._group.size):
            if self._heard[rank] or not self._expected(rank):
                self._silent[rank] = 0.0
            else:
                self._silent[rank] += seconds
            self._heard[rank] = False
            beat, seen = self._beats[rank], self._seen[rank]
            going = beat is None or beat.activity not in self._stall or beat != seen
            self._stalled[rank] = 0.0 if going else self._stalled[rank] + seconds
            self._seen[rank] = beat
        if max(self._silent) > self._limits.silence:
            self._report_silence(self._silent.index(max(self._silent)))
        elif not any(self._silent):  # a silent rank is its own cause
            late = {
                rank: beat.activity
                for rank, beat in enumerate(self._seen)
                if beat is not None and self._stalled[rank] > self._stall.get(beat.activity, math.inf)
            }
            if late:
                self._report_stall(late)

    def _expected(self, rank: int) -> bool:
        """Heartbeats begin when a rank is up; before that only a stopped process counts as silent."""
        return self._beats[rank] is not None or self._group.ranks[rank].stopped()

    def _report_silence(self, rank: int) -> None:
        standing = self._group.ask(True, set(range(self._group.size)) - self.silent())
        why = "its process is stopped (SIGSTOP)" if self._group.ranks[rank].stopped() else "its process hangs"
        self._lose(
            f"{self._group.name(rank)} has given no sign of life for {self._limits.silence:g} s: {why}."
            " XDIT_HEARTBEAT_TIMEOUT sets this limit.",
            rank,
            standing,
        )

    def _report_stall(self, stalled: dict[int, str]) -> None:
        """The ranks in `stalled` are over the limit of their activity; the one to blame may be another one, for which
        they wait.
        """
        standing = self._group.ask(True)
        behind = [
            rank for rank in sorted(standing) if any(is_behind(standing[rank], other) for other in standing.values())
        ]
        rank = behind[0] if behind else max(sorted(stalled), key=self._stalled.__getitem__)
        activity = stalled[min(stalled)]
        self._lose(
            f"{self._group.name(rank)} has made no progress for {self._stall[activity]:g} s while {activity}."
            f" {SETTINGS[activity]} sets this limit.",
            rank,
            standing,
        )

    def _lose(self, what: str, rank: int, standing: dict[int, Standing]) -> None:
        self._group.lose(lambda: GroupError(f"{what}\n{places(self._group, standing)}", rank))


def places(group: Watched, standing: dict[int, Standing]) -> str:
    """Where each rank stands, for an error."""
    lines = []
    for rank in range(group.size):
        name = group.name(rank)
        if rank not in standing:
            lines.append(f"{name} does not answer")
            continue
        waits = any(is_behind(other, standing[rank]) for other in standing.values())
        what = "waits for another rank" if waits else "is"
        lines.append(f"{name} {what} at:\n{''.join(standing[rank].stack).rstrip()}")
    return "\n".join(lines)


def is_behind(one: Standing, other: Standing) -> bool:
    """Whether `one` has not yet come to a collective that `other` has begun."""
    return any(count < other.collectives.get(group, 0) for group, count in one.collectives.items())
