"""ComfyUI's own models make room on the GPUs that ranks share with it, as they would for a model sampled here."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import torch

from .devices import DeviceSet


def make_room(guider: Any, noise_shape: torch.Size, devices: DeviceSet, resident: bool) -> None:
    """Unload ComfyUI's models from the ranks' GPUs as far as this run needs the memory.

    `resident`: the ranks hold the weights already, so only activations need room.
    """
    if devices.kind != "cuda":
        return
    patcher = guider.model_patcher
    needed, _ = comfy.sampler_helpers.estimate_memory(patcher, list(noise_shape), guider.conds)
    if not resident:
        needed += sum(value.nbytes for value in patcher.model.diffusion_model.state_dict().values())
    for index in devices.indices:
        comfy.model_management.free_memory(
            needed + comfy.model_management.minimum_inference_memory(), torch.device("cuda", index)
        )
