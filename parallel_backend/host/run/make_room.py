"""ComfyUI's own models make room on the GPUs that ranks share with it, as they would for a model sampled here."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import torch

from ...sharding.plans import plan_for
from ..describe.companions import companion_bytes
from ..group.process_group import ProcessGroup
from ..strategy.choose import Choice
from ..strategy.weight_fit import Footprint


def make_room(guider: Any, noise_shape: torch.Size, group: ProcessGroup, model: str, choice: Choice) -> None:
    """Unload ComfyUI's models from the ranks' GPUs as far as this run needs the memory. `model`: its identity key.

    ControlNets and the like count with the weights. What the ranks hold must not be in ComfyUI's list of loaded models
    meanwhile. Where a rank holds the weights already, only activations need room.
    """
    if group.devices.kind != "cuda":
        return
    patcher = guider.model_patcher
    activations, _ = comfy.sampler_helpers.estimate_memory(patcher, list(noise_shape), guider.conds)
    activations += comfy.model_management.minimum_inference_memory()
    footprint = Footprint.of(patcher.model, plan_for(patcher.model.diffusion_model))
    weights = footprint.on_a_rank(choice.weights, choice.degrees) + companion_bytes(guider)
    for rank, index in enumerate(group.devices.indices):
        held = group.held.weights(rank) if model in group.held.latest else 0
        needed = activations + max(0, weights - held)
        comfy.model_management.free_memory(needed, torch.device("cuda", index))
