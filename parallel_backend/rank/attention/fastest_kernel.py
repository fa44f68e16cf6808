"""Which of several exact attention kernels is the fastest for calls of one shape: measured once, and remembered.

A JSON file in the cache directory, for all processes, beside the links. Ranks that measure at the same time may choose
differently: each computes its own rows or heads, and every one of these kernels is exact.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ...system.cache import add_entry, cache_directory, read_entries

FORMAT = 2
KEPT = 1024  # choices; the oldest go first
TIMED = 4  # calls
SLEEP = 10_000_000  # cycles: 5 ms and more, in which even a slow CPU launches them
CLEARLY = 0.97  # of the time of the kernel that is taken without a measurement

Entry = list[str]
"""Machine, signature, kernel."""


def seconds_on_gpu(call: Callable[[], Any]) -> float:
    """Of one call, at best. While the GPU sleeps the calls are launched, so that what launching one takes on the CPU,
    which differs between packages and is nothing in a CUDA graph, does not count.
    """
    call()  # sets itself up
    events = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED + 1)]
    torch.cuda._sleep(SLEEP)
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    events[-1].synchronize()
    return min(before.elapsed_time(after) for before, after in pairwise(events)) / 1e3


class Fastest:
    """`machine`: what a measurement counts for, beside the signature of the calls. `clock(call)`: seconds of one."""

    def __init__(self, file: Path, machine: str, clock: Callable[[Callable[[], Any]], float] = seconds_on_gpu):
        self._file = file
        self._machine = machine
        self._clock = clock
        self._known = {signature: kernel for machine, signature, kernel in _entries(file) if machine == self._machine}

    def known(self, signature: str) -> str | None:
        return self._known.get(signature)

    def measure(self, signature: str, kernels: Sequence[str], run: Callable[[str], Any]) -> str:
        """The fastest of `kernels`, of which the first is taken unless another is clearly faster; remembered.

        `run(kernel)` makes the call. A kernel that raises RuntimeError is left out: cuDNN has no plan for some shapes.
        Raises OutOfMemoryError.
        """
        seconds = {}
        for kernel in kernels:
            try:
                seconds[kernel] = self._clock(functools.partial(run, kernel))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                logging.info("attention %s: %s cannot be used: %s", signature, kernel, error)
        taken = next(iter(seconds), kernels[0])
        if seconds and (best := min(seconds, key=seconds.__getitem__)) != taken:
            taken = best if seconds[best] < CLEARLY * seconds[taken] else taken
        times = ", ".join(f"{kernel} {spent * 1e3:.3f} ms" for kernel, spent in seconds.items())
        logging.info("attention %s: %s (%s)", signature, taken, times)
        self._remember(signature, taken)
        return taken

    def _remember(self, signature: str, kernel: str) -> None:
        self._known[signature] = kernel
        entry = [self._machine, signature, kernel]
        try:
            add_entry(self._file, FORMAT, entry, KEPT, _entry, lambda old: old[:2] == entry[:2])
        except OSError as error:
            logging.debug("attention kernels are not remembered: %s", error)


def fastest_file() -> Path:
    return cache_directory() / "attention.json"


def _entries(file: Path) -> list[Entry]:
    """Oldest first."""
    try:
        return read_entries(file, FORMAT, _entry)
    except ValueError as error:
        logging.warning("%s", error)
        return []


def _entry(content: Any) -> Entry:
    machine, signature, kernel = content
    return [str(machine), str(signature), str(kernel)]
