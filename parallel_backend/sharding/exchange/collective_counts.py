"""How many collectives this rank has begun, per process group: ranks are in step when these agree.

torch counts those of its process groups as they are called. It knows nothing of exchanges through symmetric memory and
of what goes through a mailbox; and of a CUDA graph it counts the capture, in which nothing is begun yet, but no replay.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist

_beside: Counter[str] = Counter()  # what to add to torch's counts


def begun() -> dict[str, int]:
    """Process group and backend → collectives begun since the start. May be called from any thread."""
    counts = dict(_beside)
    if not dist.is_initialized():
        return counts
    for group in list(dist.distributed_c10d._world.pg_map):
        for kind in {device.type for device in group._device_types}:
            name = f"{group.group_name} {kind}"
            backend: Any = group._get_backend(torch.device(kind))  # torch's types leave the next method out
            counts[name] = counts.get(name, 0) + backend._get_sequence_number_for_group()
    return counts


def beside(group: dist.ProcessGroup, kind: str) -> str:
    """The name under which what ranks of `group` exchange by another way, `kind`, is counted from now on; `count` each
    on all ranks that take part.
    """
    name = f"{group.group_name} {kind}"
    _beside[name] += 0
    return name


def count(name: str) -> None:
    _beside[name] += 1


@contextlib.contextmanager
def captured() -> Iterator[dict[str, int]]:
    """What is called inside goes into a CUDA graph. Gives, from the end on, what each replay of it begins."""
    before = Counter(begun())
    inside: dict[str, int] = {}
    try:
        yield inside
    finally:
        inside.update((name, now - before[name]) for name, now in begun().items() if now != before[name])
        _beside.subtract(inside)


def replayed(graph: Mapping[str, int]) -> None:
    """A graph is replayed that was captured with these."""
    _beside.update(graph)
