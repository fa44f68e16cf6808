"""What ranks must not decide each for itself: when to stop, and what a model call gave."""

from __future__ import annotations

import threading

import comfy.model_management
import torch
import torch.distributed as dist

from ..sharding.in_options import InOptions


class Agreement(InOptions):
    """A PREDICT_NOISE wrapper around each guided model call.

    Before it the ranks agree whether to stop, so that all stop at the same step boundary; after it rank 0's result
    replaces everyone's, so that samplers and step caches, which compare floats, cannot drift apart.
    """

    def __init__(self, group: dist.ProcessGroup | None, cancelled: threading.Event):
        self._group = group
        self._cancelled = cancelled

    def stop_if_cancelled(self) -> None:
        """Raises ComfyUI's InterruptProcessingException on every rank or on none."""
        flag = torch.tensor([self._cancelled.is_set()], dtype=torch.int32)
        if self._group is not None:
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        if flag.item():
            raise comfy.model_management.InterruptProcessingException()

    def __call__(self, executor, x, timestep, model_options, seed) -> torch.Tensor:
        self.stop_if_cancelled()
        result = executor(x, timestep, model_options, seed)
        if self._group is not None:
            result = result.contiguous()
            dist.broadcast(result, 0, group=self._group)
        return result
