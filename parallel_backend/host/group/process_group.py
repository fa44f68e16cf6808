"""The handle on a process group: one private channel to each rank, messages out, messages in, one cause of its end."""

from __future__ import annotations

import functools
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import comfy.model_management

from ...contract.commands import ArenaMessage, Ask, Shutdown
from ...contract.encoding import decode, encode
from ...contract.reports import (
    Heartbeat,
    Memory,
    Reading,
    Ready,
    Standing,
)
from ...system.threads import watched_thread
from ...transport.blobs import BlobBatch, BlobSender
from ...transport.channel import ChannelClosed
from ..base.devices import DeviceSet
from ..base.errors import GroupError
from ..base.events import Events, GroupEnded, GroupStarted
from ..base.limits import Limits
from ..launch import surviving_ranks
from ..launch.rank_launch import Launcher, RankProcess, start_rank
from .ledger import Held
from .watchdog import Watch, places

POLL_SECONDS = 0.05
EXIT_SECONDS = 1.0
ANSWER_SECONDS = 2.0
SILENT_SECONDS = 0.3  # the same for ranks that were silent before they were asked
KILL_SECONDS = 5.0
# Last lines of a rank that lacks a package: it would lack it the next time too.
LASTING = ("ModuleNotFoundError:", "ImportError:", "importlib.metadata.PackageNotFoundError:")

HINTS = {
    "SIGKILL": " (the kernel does that when the machine's memory is full)",
    "SIGBUS": " (a file of weights became shorter while it was read)",
}


class Unfinished(Protocol):
    """What ranks still do that nobody waits for any more; `done` is set at its end."""

    done: threading.Event


class ProcessGroup:
    """Rank processes, one for each device. Messages are received by one thread at a time; `kill` and `close` may be
    called from any. A group that lost a rank is killed as a whole, and every later call raises the first cause.
    """

    def __init__(self, devices: DeviceSet, limits: Limits, launcher: Launcher, events: Events):
        """Start the processes; `wait_until_ready` comes next. Raises GroupError."""
        self.devices = devices
        self.events = events
        self.blobs = BlobSender()
        self.held_modules: set[bytes] = set()
        self.held = Held()
        self.closed = False
        self._limits = limits
        self._cause: GroupError | None = None
        self._gone = False  # a rank's end of its channel is closed
        self._ended = threading.Event()
        self._phase = "starting"
        self._started = time.monotonic()
        self.leftover: Unfinished | None = None
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._messages: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[int, Standing]] = queue.SimpleQueue()
        self._questions = 0
        # The ranks find each other through a file without a name: nothing of it is left, however this process ends.
        self._store = os.memfd_create("xdit-store", os.MFD_CLOEXEC)
        self._requests = 0
        self._ranks: list[RankProcess] = []
        self._watch = Watch(self, limits)
        try:
            for rank in range(devices.size):
                level = logging.getLogger().level
                failed = functools.partial(self._thread_ended, rank)
                self._ranks.append(start_rank(rank, devices, self._store, limits, level, failed, launcher))
                watched_thread(f"xdit-receive-{rank}", self._read, self._ranks[rank], failed=failed)
        except OSError as error:
            self.kill()
            raise GroupError(f"rank {rank} of {devices} cannot be started: {error}", rank) from error
        except BaseException:
            self.kill()
            raise
        self._watch.start()

    @property
    def size(self) -> int:
        return len(self._ranks)

    @property
    def pids(self) -> list[int]:
        return [rank.process.pid for rank in self._ranks]

    @property
    def ranks(self) -> list[RankProcess]:
        return self._ranks

    def name(self, rank: int) -> str:
        """Rank and device, for messages."""
        return str(self._ranks[rank])

    def alive(self) -> bool:
        return not self.closed and not self._gone and all(rank.process.poll() is None for rank in self._ranks)

    def healthy(self) -> bool:
        """Whether every rank lives and says so when asked: a death just now may not have been noticed yet, and one that
        cannot answer may send heartbeats all the same. The group is ended when one does not answer in time.

        Raises InterruptProcessingException.
        """
        missing = set(range(self.size))
        deadline = time.monotonic() + self._limits.silence
        while missing and self.alive():
            missing -= self.ask(False, missing, comfy.model_management.processing_interrupted).keys()
            comfy.model_management.throw_exception_if_processing_interrupted()
            if missing and time.monotonic() > deadline:
                logging.warning("xDiT: %s", self.lose(functools.partial(self._mute, min(missing))))
        return self.alive()

    def next_request(self) -> int:
        self._requests += 1
        return self._requests

    def phase(self, what: str) -> None:
        """What the ranks are doing from now on, for the message of an error: "sampling", "loading …"."""
        self._phase = what

    # Messages

    def _read(self, rank: RankProcess) -> None:
        while True:
            try:
                payload, _ = rank.channel.receive()
            except ChannelClosed:
                self._gone = True
                self._messages.put((rank.rank, None))
                return
            message = decode(payload)
            self._watch.heard(rank.rank, message)
            if isinstance(message, Standing):
                self._answers.put((rank.rank, message))
            elif not isinstance(message, Heartbeat):
                self._messages.put((rank.rank, message))

    def receive(self, seconds: float) -> tuple[int, Any] | None:
        """The next message and its rank; None when none came. Raises GroupError when the group is lost."""
        try:
            rank, message = self._messages.get(timeout=max(0.0, seconds))
        except queue.Empty:
            if self._cause is not None or self.closed:
                raise self._lost() from None
            return None
        if message is None:
            raise self._lose_dead(rank)
        return rank, message

    def wait_until_ready(self, abandoned: threading.Event | None = None) -> None:
        """Raises GroupError with the first cause when a rank dies, or is not ready in time, or nobody wants it."""
        deadline = self._started + self._limits.start
        waiting = set(range(self.size))
        while waiting:
            got = self.receive(POLL_SECONDS)
            if got is not None and isinstance(got[1], Ready):
                waiting.discard(got[0])
            elif abandoned is not None and abandoned.is_set():
                raise self.lose(lambda: GroupError(f"{self.devices} is no longer wanted"))
            elif time.monotonic() > deadline:
                raise self.lose(lambda: self._late(waiting))
        self._phase = "idle"
        seconds = time.monotonic() - self._started
        logging.info("xDiT: %s ready after %.1f s", self.devices, seconds)
        self.events.emit(GroupStarted(self.devices, tuple(self.pids), seconds))

    def send(self, message: Any) -> None:
        """The same bytes to every rank, without waiting until they read them. Raises GroupError when one is gone."""
        self._send(encode(message), ())

    def send_blobs(self, batch: BlobBatch) -> list[bytes]:
        """Send what the ranks lack of `batch`, in shared memory; returns the digests that they may forget."""
        arenas = batch.arenas()
        try:
            for arena in arenas:
                self._send(encode(ArenaMessage(arena.size, arena.spans)), (arena.descriptor,))
        finally:
            for arena in arenas:
                arena.close()
        return batch.commit()

    def _send(self, payload: bytes, descriptors: tuple[int, ...]) -> None:
        for rank in self._ranks:
            try:
                rank.outbox.send(payload, descriptors)
            except ChannelClosed:
                raise self._lose_dead(rank.rank) from None

    def ask(
        self, stacks: bool, ranks: set[int] | None = None, enough: Callable[[], bool] = lambda: False
    ) -> dict[int, Standing]:
        """Where the ranks (all of them, or `ranks`) stand, as far as they answer at once, or until `enough()`. For any
        thread.
        """
        with self._asking:
            self._questions += 1
            asked = set(range(self.size)) if ranks is None else set(ranks)
            return self._ask(Ask(stacks, self._questions), asked, enough)

    def _ask(self, question: Ask, asked: set[int], enough: Callable[[], bool]) -> dict[int, Standing]:
        standing: dict[int, Standing] = {}
        for rank in sorted(asked):
            try:
                self._ranks[rank].outbox.send(encode(question))
            except ChannelClosed:
                asked.discard(rank)
        began = time.monotonic()
        while (missing := asked - standing.keys()) and not self._gone and not enough():
            if time.monotonic() - began > (SILENT_SECONDS if missing <= self._watch.silent() else ANSWER_SECONDS):
                break
            try:
                rank, answer = self._answers.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if answer.question == question.number:  # else it comes too late, and may say something else
                standing[rank] = answer
        return standing

    def memory(self) -> dict[str, Memory]:
        """Memory of the ranks that answer, by their names, in order."""
        answers = sorted(self.ask(stacks=False).items())
        return {self.name(rank): answer.memory for rank, answer in answers if answer.memory}

    def reading(self, rank: int) -> Reading | None:
        """How far a rank that loads was with reading weights, a moment ago."""
        return self._watch.reading(rank)

    # Ends

    def lose(self, cause: Callable[[], GroupError]) -> GroupError:
        """End the group because of `cause()`, or of what ended it before; returns what to raise."""
        with self._lock:
            if self._cause is None and not self.closed:
                self._cause = cause()
        self.kill()
        return self._lost()

    def _lost(self) -> GroupError:
        if self._cause is None:
            return GroupError(f"{self.devices}: the process group was closed")
        return GroupError(str(self._cause), self._cause.rank, self._cause.lasting)

    def _lose_dead(self, rank: int) -> GroupError:
        return self.lose(lambda: self._died(rank))

    def _late(self, waiting: set[int]) -> GroupError:
        first = self._ranks[min(waiting)]
        late = ", ".join(self.name(rank) for rank in sorted(waiting))
        return GroupError(
            f"{late} not ready within {self._limits.start:g} s (XDIT_START_TIMEOUT).\n{places(self, self.ask(True))}\n"
            f"Last lines of {first.log}:\n{first.log.tail()}",
            first.rank,
        )

    def _mute(self, rank: int) -> GroupError:
        return GroupError(
            f"{self.name(rank)} has not answered for {self._limits.silence:g} s while {self._phase}."
            " XDIT_HEARTBEAT_TIMEOUT sets this limit.",
            rank,
        )

    def _thread_ended(self, rank: int, error: BaseException) -> None:
        """A thread of this process that this rank needs has ended: nobody would hear of it, or it of anybody."""
        name = threading.current_thread().name
        self.lose(lambda: GroupError(f"rank {rank}: the thread {name} ended: {type(error).__name__}: {error}", rank))

    def _died(self, rank: int) -> GroupError:
        died = self._ranks[rank]
        try:
            code = died.process.wait(timeout=EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            end = "closed its channel"
        else:
            name = _signal_name(-code)
            end = f"was ended by {name}{HINTS.get(name, '')}" if code < 0 else f"ended with exit code {code}"
            died.log.close()
        tail = died.log.tail()
        return GroupError(
            f"{died} {end} while {self._phase}. Last lines of {died.log}:\n{tail}",
            rank,
            lasting=tail.rpartition("\n")[2].startswith(LASTING),
        )

    def kill(self) -> None:
        """End every rank at once."""
        self._end(0.0)

    def close(self) -> None:
        """End every rank: asked first, then forced. Leaves no process, file or socket behind."""
        for rank in [] if self.closed else self._ranks:
            try:
                rank.outbox.send(encode(Shutdown()))
            except ChannelClosed:
                continue
        self._end(self._limits.stop)

    def _end(self, grace: float) -> None:
        with self._lock:
            first, self.closed = not self.closed, True
        if not first:
            self._ended.wait()
            return
        self.events.emit(GroupEnded(self.devices, tuple(self.pids)))
        self._watch.stop()
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and any(rank.process.poll() is None for rank in self._ranks):
            time.sleep(POLL_SECONDS)
        for rank in self._ranks:
            if rank.process.poll() is None:
                rank.process.kill()
        for rank in self._ranks:
            try:
                rank.process.wait(KILL_SECONDS)
                surviving_ranks.waited_for(rank.process.pid)
            except subprocess.TimeoutExpired:
                logging.warning("xDiT: %s was killed and has not ended yet: its device's driver holds it", rank)
            rank.outbox.close()
            rank.channel.close()
            rank.log.close()
        os.close(self._store)
        self._ended.set()


def _signal_name(number: int) -> str:
    return next((known.name for known in signal.Signals if known == number), f"signal {number}")
