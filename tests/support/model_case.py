"""One model call to be sharded: a real ComfyUI model class with tiny random weights, and its inputs."""

from __future__ import annotations

import functools
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
        model = _built(self.build, "cpu")
        model.load_state_dict(_weights(self.build))
        return model.eval().requires_grad_(False)


def _built(build: Callable[..., torch.nn.Module], device: str) -> torch.nn.Module:
    import comfy.ops

    return build(device=device, operations=comfy.ops.disable_weight_init, dtype=torch.float32)


@functools.lru_cache(maxsize=1)  # cases of one model follow each other
def _weights(build: Callable[..., torch.nn.Module]) -> dict[str, torch.Tensor]:
    return random_weights(_built(build, "meta"), seed=11)


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
