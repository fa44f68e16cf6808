"""The random state of a process: the generators that code draws from without naming one."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from ..transport.packing import pack, unpack


@dataclass(frozen=True)
class RandomState:
    """Of Python's `random`, numpy's global generator, torch's for the CPU, and torch's for a GPU (None without one).
    It travels between ComfyUI and the ranks in both directions, and holds no tensors.
    """

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    cpu: tuple[Any, ...]
    accelerator: tuple[Any, ...] | None

    @classmethod
    def take(cls, device: torch.device) -> RandomState:
        """This process's; `device`: the one whose generator samplers draw from beside the CPU's."""
        accelerator = pack(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None
        return cls(random.getstate(), numpy.random.get_state(legacy=False), pack(torch.get_rng_state()), accelerator)

    def restore(self, device: torch.device) -> None:
        """Every generator goes on from here in this process. A GPU's state is of use on a GPU only."""
        random.setstate(self.python)
        numpy.random.set_state(self.numpy)
        torch.set_rng_state(unpack(self.cpu))
        if self.accelerator is not None and device.type == "cuda":
            torch.cuda.set_rng_state(unpack(self.accelerator), device)
