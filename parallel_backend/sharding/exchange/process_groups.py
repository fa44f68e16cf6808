"""Process groups given back. Each holds communicators: sockets or, on a GPU, memory and a share of the link."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist


@contextlib.contextmanager
def made() -> Iterator[list[dist.ProcessGroup]]:
    """The list holds, from the end of the context on, the groups with this rank that were made within, in order."""
    groups: list[dist.ProcessGroup] = []
    known = dist.distributed_c10d._world.pg_map
    before = set(known)
    yield groups
    groups.extend(group for group in known if group not in before)


def destroy(groups: list[dist.ProcessGroup], device: torch.device) -> None:
    """A collective call: every rank destroys the same groups in the same order, once its device has ended its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    while groups:
        dist.destroy_process_group(groups.pop(0))
