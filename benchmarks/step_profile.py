"""Where the time of a model call goes on one rank: attention, GEMM, collectives, the rest, and nothing at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

# The first kind with a word that the kernel's name contains, in lower case.
KINDS = {
    "attention": ("sdpa", "flash_fwd", "flashattn", "fmha"),
    "collective": ("nccl", "symm_mem", "all_to_all"),
    "gemm": ("gemm", "nvjet", "cutlass", "gemv", "splitk", "xmma", "conv"),
    "copy": ("memcpy", "memset", "copy_kernel", "catarray"),
}
OTHER = "elementwise"
NAME = 110  # characters of a kernel's name that tell it from others


def kind_of(kernel: str) -> str:
    name = kernel.lower()
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), OTHER)


@dataclass(frozen=True)
class Kernels:
    """What ran on this rank's GPU in `calls` calls that took `total_ms`: (name, start, end in microseconds) each."""

    ran: list[tuple[str, float, float]]
    calls: int
    total_ms: float

    def by_kind(self) -> dict[str, float]:
        """Milliseconds per call: of each kind of kernel, with none running ("idle"), and in all ("total").

        Kernels that overlap count in full for each kind, so the kinds may add up to more than "total" - "idle".
        Profiling itself costs CPU time: "idle" is larger than without it where the CPU is the bottleneck.
        """
        return {name: value / self.calls for name, value in breakdown(self.ran, self.total_ms).items()}

    def longest(self, most: int) -> list[dict]:
        """Milliseconds and launches per call of the kernels that take the most time."""
        spent: dict[str, list[float]] = {}
        for name, start, end in self.ran:
            spent.setdefault(name[:NAME], []).append((end - start) / 1e3)
        ranked = sorted(spent.items(), key=lambda item: -sum(item[1]))[:most]
        return [{"name": name, "ms": sum(ms) / self.calls, "count": len(ms) / self.calls} for name, ms in ranked]


def profiled(call: Callable[[], object]) -> dict[str, float]:
    """Milliseconds per call, as Kernels.by_kind gives them."""
    return kernels_of(call).by_kind()


def kernels_of(call: Callable[[], object], calls: int = 3) -> Kernels:
    """The kernels of `calls` calls on this rank's GPU, after one that is not looked at."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        began = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    ran = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    return Kernels(ran, calls, seconds * 1e3)


def breakdown(kernels: Iterable[tuple[str, float, float]], total_ms: float) -> dict[str, float]:
    """Milliseconds of each kind; `kernels` are (name, start, end) in microseconds."""
    spent = {**dict.fromkeys((*KINDS, OTHER), 0.0), "idle": total_ms, "total": total_ms}
    busy_until = float("-inf")
    for name, start, end in sorted(kernels, key=lambda kernel: kernel[1]):
        spent[kind_of(name)] += (end - start) / 1e3
        spent["idle"] -= max(0.0, end - max(start, busy_until)) / 1e3
        busy_until = max(busy_until, end)
    return spent
