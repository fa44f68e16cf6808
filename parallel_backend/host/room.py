"""ComfyUI's own models make room on the GPUs that ranks share with it, as they would for a model sampled here."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import torch

from .group import ProcessGroup


def make_room(guider: Any, noise_shape: torch.Size, group: ProcessGroup, model: str) -> None:
    """Unload ComfyUI's models from the ranks' GPUs as far as this run needs the memory. `model`: its identity key.

    What the ranks hold must not be in ComfyUI's list of loaded models meanwhile. Where a rank holds the weights
    already, only activations need room.
    """
    if group.devices.kind != "cuda":
        return
    patcher = guider.model_patcher
    activations, _ = comfy.sampler_helpers.estimate_memory(patcher, list(noise_shape), guider.conds)
    activations += comfy.model_management.minimum_inference_memory()
    weights = sum(value.nbytes for value in patcher.model.diffusion_model.state_dict().values())
    for rank, index in enumerate(group.devices.indices):
        resident = model in group.held.latest and group.held.weights(rank) > 0
        needed = activations if resident else activations + weights
        comfy.model_management.free_memory(needed, torch.device("cuda", index))
