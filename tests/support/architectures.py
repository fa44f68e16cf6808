"""Which diffusion model class each of ComfyUI's supported models has, found without building any."""

from __future__ import annotations

from unittest import mock

import torch

# What a few entries look up in the detected config, or in the file, before their model class is known.
DETECTED = {"in_channels": 4, "hidden_size": 2604}
FROM_FILE = {"cc_projection.weight": torch.zeros(1, 1), "cc_projection.bias": torch.zeros(1)}


class _Found(Exception):
    pass


def architectures() -> dict[str, str]:
    """Name of each entry of comfy.supported_models.models → its diffusion model class, as module.qualname."""
    import comfy.model_base
    import comfy.supported_models

    def stop(self, model_config, model_type=None, device=None, unet_model=comfy.model_base.UNetModel):
        raise _Found(f"{unet_model.__module__}.{unet_model.__qualname__}")

    found = {}
    with mock.patch.object(comfy.model_base.BaseModel, "__init__", stop):
        for entry in comfy.supported_models.models:
            try:
                entry(DETECTED | entry.unet_config).get_model(FROM_FILE)
            except _Found as architecture:
                found[entry.__name__] = str(architecture)
    return found
