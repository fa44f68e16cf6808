"""Memory that CPU ranks write into directly, in the place of torch's symmetric memory, which needs GPUs."""

from __future__ import annotations

import mmap
import os
import tempfile

import torch
import torch.distributed as dist


def in_shared_files() -> None:
    """In this process, from now on."""
    from xdit_comfyui.parallel_backend.sharding.exchange import symmetric_buffers

    symmetric_buffers._new_buffer = lambda size, device, group: (None, SharedFiles(size, group))


class SharedFiles:
    """A handle of symmetric memory: one file of each rank, mapped by all."""

    def __init__(self, size: int, group: dist.ProcessGroup):
        self._group = group
        own = tempfile.NamedTemporaryFile(delete=False)
        own.truncate(size)
        names: list = [None] * dist.get_world_size(group)
        dist.all_gather_object(names, own.name, group=group)
        self._maps = [mmap.mmap(os.open(name, os.O_RDWR), size) for name in names]
        dist.barrier(group)
        os.unlink(own.name)

    def get_buffer(self, rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        count = torch.Size(shape).numel()
        return torch.frombuffer(self._maps[rank], dtype=dtype, count=count).view(shape)

    def barrier(self, channel: int) -> None:
        dist.barrier(self._group)
