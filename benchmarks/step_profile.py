"""Where the time of a model call goes on one rank: attention, GEMM, collectives, the rest, and nothing at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile

# The first kind with a word that the kernel's name contains, in lower case.
KINDS = {
    "attention": ("sdpa", "flash_fwd", "fmha", "attention"),
    "collective": ("nccl", "symm_mem", "all_to_all"),
    "gemm": ("gemm", "nvjet", "cutlass", "gemv", "splitk", "xmma", "conv"),
    "copy": ("memcpy", "memset", "copy_kernel", "catarray"),
}
OTHER = "elementwise"


def kind_of(kernel: str) -> str:
    name = kernel.lower()
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), OTHER)


def profiled(call: Callable[[], object], calls: int = 3) -> dict[str, float]:
    """Milliseconds per call on this rank's GPU: of each kind of kernel, with none running ("idle"), and in all.

    Kernels that overlap count in full for each kind, so the kinds may add up to more than "total" - "idle".
    Profiling itself costs CPU time: "idle" is larger than without it where the CPU is the bottleneck.
    """
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        began = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    kernels = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    return {name: value / calls for name, value in breakdown(kernels, seconds * 1e3).items()}


def breakdown(kernels: Iterable[tuple[str, float, float]], total_ms: float) -> dict[str, float]:
    """Milliseconds of each kind; `kernels` are (name, start, end) in microseconds."""
    spent = {**dict.fromkeys((*KINDS, OTHER), 0.0), "idle": total_ms, "total": total_ms}
    busy_until = float("-inf")
    for name, start, end in sorted(kernels, key=lambda kernel: kernel[1]):
        spent[kind_of(name)] += (end - start) / 1e3
        spent["idle"] -= max(0.0, end - max(start, busy_until)) / 1e3
        busy_until = max(busy_until, end)
    return spent
