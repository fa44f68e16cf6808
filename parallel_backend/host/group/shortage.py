"""Saying how much memory was asked for, and how much there is."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...contract.reports import Memory

GIB = 1024**3
ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ ?\w+)")
ADVICE = (
    "To need less memory: weight_dtype fp8_e4m3fn in xDiT Loader, a smaller image or batch, more devices in Parallel"
    " Config with strategy auto. Or end other programs that use these devices"
)


def shortage(where: str, reason: str, ranks: Mapping[str, Memory]) -> str:
    """One line for an out-of-memory error: where, how much was asked for, and what is free on each rank's device.

    `ranks`: the memory of each by its name.
    """
    asked = ASKED.search(reason)
    what = f"asked for {asked[1]}" if asked else reason
    free = ", ".join(
        f"{name} {memory.free / GIB:.1f} of {memory.total / GIB:.1f} GiB" for name, memory in ranks.items()
    )
    return f"out of memory on {where}: {what}; free: {free or 'no rank answers'}"
