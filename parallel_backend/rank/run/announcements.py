"""What rank 0 tells the other ranks: a line of JSON through the host's memory, and tensors behind it.

Nothing pickled goes through a collective. Neither a line nor tensors on a GPU make the sampler wait for the GPU.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch
import torch.distributed as dist

from ...sharding.exchange.memory_order import as_contiguous, order_of
from ...transport.blobs import as_bytes

SHORT = 1024  # bytes that each line takes at least; the rest of a longer one follows
LENGTH = 4  # bytes in front that say how long it is
CPU, ACCELERATOR = "cpu", "accelerator"


class Announcements:
    """From rank 0 of `group` to its other ranks, which `hear` as often as rank 0 `tell`s."""

    def __init__(self, group: dist.ProcessGroup):
        self._group = group
        self.leads = dist.get_rank(group) == 0

    def tell(self, news: Any, tensors: Sequence[torch.Tensor] = ()) -> None:
        """`news`: what JSON can hold; `tensors`: dense, of any dtype, shape, order in memory and device."""
        orders = [order_of(tensor) for tensor in tensors]
        tensors = [as_contiguous(tensor) for tensor in tensors]
        specs = [
            (str(tensor.dtype).removeprefix("torch."), list(tensor.shape), _kind(tensor), order)
            for tensor, order in zip(tensors, orders, strict=True)
        ]
        line = json.dumps((news, specs)).encode()
        first = bytearray(SHORT)
        first[:LENGTH] = len(line).to_bytes(LENGTH, "big")
        own = line[: SHORT - LENGTH]
        first[LENGTH : LENGTH + len(own)] = own
        self._broadcast(torch.frombuffer(first, dtype=torch.uint8))
        if rest := line[SHORT - LENGTH :]:
            self._broadcast(torch.frombuffer(bytearray(rest), dtype=torch.uint8))
        for kind in (CPU, ACCELERATOR):
            if parts := [as_bytes(tensor) for tensor in tensors if _kind(tensor) == kind and tensor.numel()]:
                self._broadcast(torch.cat(parts) if len(parts) > 1 else parts[0])

    def hear(self) -> tuple[Any, list[torch.Tensor]]:
        """The news, and the tensors on this rank's devices, in memory as they are on rank 0."""
        first = bytearray(SHORT)
        self._broadcast(torch.frombuffer(first, dtype=torch.uint8))
        length = int.from_bytes(first[:LENGTH], "big")
        line = first[LENGTH : LENGTH + length]
        if length > len(line):
            rest = bytearray(length - len(line))
            self._broadcast(torch.frombuffer(rest, dtype=torch.uint8))
            line += rest
        news, specs = json.loads(line)
        return news, self._receive(specs)

    def _receive(self, specs: list) -> list[torch.Tensor]:
        shapes = [(getattr(torch, dtype), shape, kind) for dtype, shape, kind, _ in specs]
        sizes = [torch.Size(shape).numel() * dtype.itemsize for dtype, shape, _ in shapes]
        flat, begun = {}, {CPU: 0, ACCELERATOR: 0}
        for kind in (CPU, ACCELERATOR):
            total = sum(size for size, (_, _, at) in zip(sizes, shapes, strict=True) if at == kind)
            if total:
                device = "cpu" if kind == CPU else comfy.model_management.get_torch_device()
                flat[kind] = torch.empty(total, dtype=torch.uint8, device=device)
                self._broadcast(flat[kind])
        tensors = []
        for size, (dtype, shape, kind) in zip(sizes, shapes, strict=True):
            if not size:
                device = "cpu" if kind == CPU else comfy.model_management.get_torch_device()
                tensors.append(torch.empty(shape, dtype=dtype, device=device))
                continue
            part = flat[kind][begun[kind] : begun[kind] + size]
            aligned = part if begun[kind] % dtype.itemsize == 0 else part.clone()
            tensors.append(aligned.view(dtype).reshape(shape))
            begun[kind] += size
        return [_in_order(tensor, order) for tensor, (*_, order) in zip(tensors, specs, strict=True)]

    def _broadcast(self, tensor: torch.Tensor) -> None:
        dist.broadcast(tensor, 0, group=self._group)


def _kind(tensor: torch.Tensor) -> str:
    return CPU if tensor.device.type == "cpu" else ACCELERATOR


def _in_order(contiguous: torch.Tensor, order: list[int]) -> torch.Tensor:
    """The tensor whose dims lie in memory in this order."""
    return contiguous.permute([order.index(dim) for dim in range(contiguous.ndim)])
