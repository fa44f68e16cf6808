"""Plain tensors as (dtype, shape, bytes), for messages that carry nothing else."""

from __future__ import annotations

from typing import Any

import torch

from .blobs import tensor_bytes

TENSOR = "tensor"


def pack(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return tensor.dtype, tuple(tensor.shape), bytes(tensor_bytes(tensor))


def unpack(packed: tuple[torch.dtype, tuple[int, ...], bytes], device: torch.device | str = "cpu") -> torch.Tensor:
    dtype, shape, data = packed
    if not data:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype).reshape(shape).to(device)


def pack_output(output: Any) -> tuple[str, tuple]:
    """What a diffusion model gives: a tensor, or a list or tuple of tensors, one for each modality."""
    if isinstance(output, torch.Tensor):
        return TENSOR, pack(output)
    if isinstance(output, list | tuple) and all(isinstance(one, torch.Tensor) for one in output):
        return type(output).__name__, tuple(pack(one) for one in output)
    raise TypeError(
        f"a diffusion model returned {type(output).__name__}; only tensors, or a list or tuple of them, can be sent"
    )


def unpack_output(packed: tuple[str, tuple], device: torch.device | str = "cpu") -> Any:
    """As it was; a named tuple becomes a tuple."""
    kind, parts = packed
    if kind == TENSOR:
        return unpack(parts, device)
    whole = [unpack(part, device) for part in parts]
    return whole if kind == "list" else tuple(whole)
