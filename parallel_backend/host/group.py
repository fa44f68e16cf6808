"""The handle on a running process group: one private channel to each rank, messages out, events in."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..protocol import ArenaMessage, Cancel, Ready, Shutdown, decode, encode
from ..transport.blobs import BlobBatch, BlobSender
from ..transport.channel import ChannelClosed
from .devices import DeviceSet
from .events import GroupEnded, GroupStarted, emit
from .launch import RankProcess, Timeouts, start_rank

POLL_SECONDS = 0.05


class GroupError(RuntimeError):
    """The process group cannot go on; the next prompt starts a new one."""


class ProcessGroup:
    """A started, ready group of ranks. Every method is for one thread; `close` may be called from any."""

    def __init__(self, devices: DeviceSet, timeouts: Timeouts):
        """Start one rank for each device and wait until all are ready. Raises GroupError with the first cause."""
        self.devices = devices
        self.blobs = BlobSender()
        self.held_modules: set[bytes] = set()
        self.resident: set[str] = set()  # identity keys of models that a request used
        self.closed = False
        self._timeouts = timeouts
        self._events: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        # The ranks find each other through a file without a name: nothing of it is left, however this process ends.
        self._store = os.memfd_create("xdit-store", os.MFD_CLOEXEC)
        self._requests = 0
        self._ranks: list[RankProcess] = []
        started = time.monotonic()
        try:
            for rank in range(devices.size):
                level = logging.getLogger().level
                self._ranks.append(start_rank(rank, devices, self._store, timeouts, level))
                threading.Thread(target=self._read, args=(self._ranks[rank],), daemon=True).start()
            self._wait_until_ready(started + timeouts.start)
        except BaseException:
            self.close()
            raise
        logging.info("xDiT: %s ready after %.1f s", devices, time.monotonic() - started)
        emit(GroupStarted(devices, tuple(self.pids), time.monotonic() - started))

    @property
    def size(self) -> int:
        return len(self._ranks)

    @property
    def pids(self) -> list[int]:
        return [rank.process.pid for rank in self._ranks]

    def device(self, rank: int) -> str:
        return self._ranks[rank].device

    def alive(self) -> bool:
        return not self.closed and all(rank.process.poll() is None for rank in self._ranks)

    def next_request(self) -> int:
        self._requests += 1
        return self._requests

    def _read(self, rank: RankProcess) -> None:
        while True:
            try:
                payload, _ = rank.channel.receive()
            except ChannelClosed:
                self._events.put((rank.rank, None))
                return
            self._events.put((rank.rank, decode(payload)))

    def _wait_until_ready(self, deadline: float) -> None:
        waiting = set(range(len(self._ranks)))
        while waiting:
            try:
                rank, message = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise GroupError(
                    f"{', '.join(self._name(rank) for rank in sorted(waiting))} not ready within"
                    f" {self._timeouts.start:.0f} s. Last lines of its log:\n{self._ranks[min(waiting)].log_tail()}"
                ) from None
            if message is None:
                raise self._died(rank)
            if isinstance(message, Ready):
                waiting.discard(rank)

    def send(self, message: Any) -> None:
        """The same bytes to every rank. Raises GroupError when one is gone."""
        self._send(encode(message), ())

    def send_blobs(self, batch: BlobBatch) -> list[bytes]:
        """Send what the ranks lack of `batch`, in shared memory; returns the digests that they may forget."""
        arena = batch.arena()
        if arena is not None:
            try:
                self._send(encode(ArenaMessage(arena.size, arena.spans)), (arena.descriptor,))
            finally:
                arena.close()
        return batch.commit()

    def _send(self, payload: bytes, descriptors: tuple[int, ...]) -> None:
        for rank in self._ranks:
            try:
                rank.channel.send(payload, descriptors)
            except ChannelClosed:
                raise self._died(rank.rank) from None

    def events(self, interrupted: Callable[[], bool], request: int) -> Iterator[tuple[int, Any]]:
        """Messages of the ranks as they come; sends Cancel once when `interrupted`. Raises GroupError when one dies."""
        cancelled = False
        while True:
            if not cancelled and interrupted():
                cancelled = True
                self.send(Cancel(request))
            try:
                rank, message = self._events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if message is None:
                raise self._died(rank)
            if getattr(message, "request", request) == request:
                yield rank, message

    def events_for(self, seconds: float, request: int) -> Iterator[tuple[int, Any]]:
        """Messages of the ranks until `seconds` have passed. A rank that dies meanwhile is one that does not answer."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                rank, message = self._events.get(timeout=left)
            except queue.Empty:
                return
            if message is not None and getattr(message, "request", request) == request:
                yield rank, message

    def _name(self, rank: int) -> str:
        return f"rank {rank} ({self._ranks[rank].device})"

    def _died(self, rank: int) -> GroupError:
        process = self._ranks[rank].process
        try:
            code = process.wait(timeout=1)
            end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        except Exception:
            end = "closed its channel"
        tail = self._ranks[rank].log_tail()
        self.close()
        return GroupError(f"{self._name(rank)} {end}. Last lines of {self._ranks[rank].log}:\n{tail}")

    def close(self) -> None:
        """End every rank: asked first, then forced. Leaves no process, file or socket behind."""
        if self.closed:
            return
        self.closed = True
        emit(GroupEnded(self.devices, tuple(self.pids)))
        for rank in self._ranks:
            try:
                rank.channel.send(encode(Shutdown()))
            except ChannelClosed:
                continue
        deadline = time.monotonic() + self._timeouts.stop
        while time.monotonic() < deadline and any(rank.process.poll() is None for rank in self._ranks):
            time.sleep(POLL_SECONDS)
        for rank in self._ranks:
            if rank.process.poll() is None:
                rank.process.kill()
            rank.process.wait()
            rank.channel.close()
        os.close(self._store)
