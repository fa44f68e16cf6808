"""How many collectives this rank has begun, per process group: ranks are in step when these agree."""

from __future__ import annotations

import torch
import torch.distributed as dist


def begun() -> dict[str, int]:
    """Process group and backend → collectives begun since the start. May be called from any thread."""
    if not dist.is_initialized():
        return {}
    counts = {}
    for group in list(dist.distributed_c10d._world.pg_map):
        for kind in {device.type for device in group._device_types}:
            backend = group._get_backend(torch.device(kind))
            counts[f"{group.group_name} {kind}"] = backend._get_sequence_number_for_group()
    return counts
