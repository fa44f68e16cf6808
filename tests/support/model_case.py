"""One model call to be sharded: a real ComfyUI model class with tiny random weights, and its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from support.tiny_models import random_weights


@dataclass(frozen=True)
class ModelCase:
    """`build(device, operations)` makes the model; `inputs()` the positional and keyword arguments of its forward.

    Both run in every rank and must give the same there: seeded, fp32. `name` is "architecture: special input".
    `modes`: the modes that are exact ("persist", "block"), or "auto". `takes_batches`: False where ComfyUI's class
    itself takes one row only.
    """

    name: str
    build: Callable[..., torch.nn.Module]
    inputs: Callable[[], tuple[tuple, dict[str, Any]]]
    modes: tuple[str, ...] = ("persist", "block")
    takes_batches: bool = True

    def model(self) -> torch.nn.Module:
        import comfy.ops

        operations = comfy.ops.disable_weight_init
        shapes = self.build(device="meta", operations=operations, dtype=torch.float32)
        model = self.build(device="cpu", operations=operations, dtype=torch.float32)
        model.load_state_dict(random_weights(shapes, seed=11))
        return model.eval().requires_grad_(False)


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
