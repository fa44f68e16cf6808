"""The order in which a tensor's elements lie in memory.

It is part of the result: `torch.randn_like` of a latent fills memory in order, so noise lands elsewhere in one with
other strides. ComfyUI's guided calls give results laid out as the x that went in.
"""

from __future__ import annotations

import torch


def order_of(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The dims from the slowest to the fastest in memory; None where elements have gaps between them or overlap."""
    order = tuple(sorted(range(tensor.ndim), key=tensor.stride, reverse=True))
    return order if tensor.permute(order).is_contiguous() else None


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` itself, or a contiguous copy where elements have gaps between them or overlap."""
    return tensor if order_of(tensor) is not None else tensor.contiguous()


def as_contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """A dense tensor's own memory, with its dims in the order that makes it contiguous. Raises ValueError for one that
    is not dense.
    """
    order = order_of(tensor)
    if order is None:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} and strides {tensor.stride()} is not dense")
    return tensor.permute(order)


def laid_out_as(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`value`, dense, and with the strides of `like` where it has its shape."""
    if value.shape != like.shape:
        return value.contiguous()
    wanted = torch.empty_like(like, dtype=value.dtype, device=value.device)
    return value if value.stride() == wanted.stride() else wanted.copy_(value)
