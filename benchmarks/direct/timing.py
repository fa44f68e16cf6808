"""Milliseconds of one call, as it is in a row of calls such as a sampler makes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

WARM_CALLS = 4  # compilers and CUDA graphs set themselves up in them


def timed(call: Callable[[], torch.Tensor], calls: int, rows: int) -> tuple[list[float], torch.Tensor]:
    """Milliseconds a call of each of `rows` rows of `calls` calls, all ranks starting together; and the output."""
    for _ in range(WARM_CALLS):
        output = call()
    found = []
    for _ in range(rows):
        _settle()
        dist.barrier()
        began = time.perf_counter()
        for _ in range(calls):
            output = call()
        _settle()
        found.append((time.perf_counter() - began) * 1e3 / calls)
    return found, output.clone()


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
