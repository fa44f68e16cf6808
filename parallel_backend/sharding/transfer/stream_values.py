"""Numbers in memory that two ranks share: what comes after waits until one has a value, or writes it.

On CUDA a stream waits and writes by itself, without a kernel, so no multiprocessor is taken while it waits (CUDA driver
API, "Stream Memory Operations"). On a CPU the thread looks again and again.
"""

from __future__ import annotations

import ctypes
import time
from typing import Protocol

import torch

from .cuda_driver import driver_call

SPACING = 64  # bytes from one number to the next: each has a cache line to itself
WAIT_UNTIL_EQUAL = 1  # CU_STREAM_WAIT_VALUE_EQ
WRITE_AFTER_ALL_BEFORE = 0  # CU_STREAM_WRITE_VALUE_DEFAULT, with a memory barrier
SHORTEST_SLEEP, LONGEST_SLEEP = 20e-6, 1e-3  # seconds


class Values(Protocol):
    """Numbers of 32 bits, SPACING apart."""

    def wait(self, index: int, value: int) -> None: ...

    def write(self, index: int, value: int) -> None: ...


class StreamValues:
    """In pinned host memory from `address` on, for the current CUDA stream. Both calls return at once and can be
    captured into a CUDA graph.

    Raises RuntimeError where the driver cannot do it.
    """

    def __init__(self, address: int):
        on_device = ctypes.c_uint64()
        driver_call("cuMemHostGetDevicePointer_v2", ctypes.byref(on_device), ctypes.c_void_p(address), ctypes.c_uint(0))
        self._address = on_device.value

    def wait(self, index: int, value: int) -> None:
        self._on_stream("cuStreamWaitValue32_v2", index, value, WAIT_UNTIL_EQUAL)

    def write(self, index: int, value: int) -> None:
        self._on_stream("cuStreamWriteValue32_v2", index, value, WRITE_AFTER_ALL_BEFORE)

    def _on_stream(self, name: str, index: int, value: int, flags: int) -> None:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        address = ctypes.c_uint64(self._address + index * SPACING)
        driver_call(name, stream, address, ctypes.c_uint32(value), ctypes.c_uint(flags))


class PolledValues:
    """In `memory` (int32), for this thread. A wait takes `timeout` seconds at most and is for `peer`, a global rank.

    `wait` raises TimeoutError.
    """

    def __init__(self, memory: torch.Tensor, peer: int, timeout: float):
        self._memory = memory.numpy().data[:: SPACING // memory.itemsize]
        self._peer = peer
        self._timeout = timeout

    def wait(self, index: int, value: int) -> None:
        deadline, sleep = time.monotonic() + self._timeout, SHORTEST_SLEEP
        while self._memory[index] != value:
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank {self._peer} did not do its part of a hand-over within {self._timeout:g} s")
            time.sleep(sleep)
            sleep = min(2 * sleep, LONGEST_SLEEP)

    def write(self, index: int, value: int) -> None:
        self._memory[index] = value
