"""Plain tensors as (dtype, shape, bytes), for messages that carry nothing else."""

from __future__ import annotations

import torch

from .blobs import tensor_bytes


def pack(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return tensor.dtype, tuple(tensor.shape), bytes(tensor_bytes(tensor))


def unpack(packed: tuple[torch.dtype, tuple[int, ...], bytes], device: torch.device | str = "cpu") -> torch.Tensor:
    dtype, shape, data = packed
    if not data:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype).reshape(shape).to(device)
