"""Latents that no memory holds are refused before anything is computed, sent or lost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import comfy.model_management
import psutil
import torch

from ..base.devices import DeviceSet
from ..base.errors import OutOfMemory

GIB = 1024**3
COPIES = 3  # a sampling run holds at least the noise, the latent of this step and what the model makes of it


def refuse_too_large(latent: torch.Tensor, devices: DeviceSet) -> None:
    """`latent`: of any layout (a nested one too, an expanded one counts in full). What it takes beside is not counted.

    Raises OutOfMemory for one of which `COPIES` do not fit a device of `devices`, or the machine for all CPU ranks.
    """
    parts = latent.unbind() if latent.is_nested else [latent]
    size = sum(math.prod(part.shape) * part.dtype.itemsize for part in parts)
    ram = psutil.virtual_memory().available + psutil.swap_memory().free
    processes = 1 + (devices.size if devices.kind == "cpu" else 0)  # ComfyUI, and ranks that share its memory
    _check(parts, size, processes, ram, "this machine has", "free")
    if devices.kind == "cuda":
        for rank, index in enumerate(devices.indices):
            total = comfy.model_management.get_total_memory(torch.device("cuda", index))
            _check(parts, size, 1, total, f"{devices.name(rank)} has", "in all")


def _check(parts: Sequence[torch.Tensor], size: int, holders: int, there: int, where: str, what: str) -> None:
    if COPIES * holders * size <= there:
        return
    shape = ", ".join(" × ".join(map(str, part.shape)) for part in parts)
    raise OutOfMemory(
        f"the latent, {shape}, takes {size / GIB:,.1f} GiB, and sampling holds it {COPIES * holders} times at least;"
        f" {where} {there / GIB:,.1f} GiB {what}. Make the image smaller, or the batch",
        group_lives=True,
        final=True,
    )
