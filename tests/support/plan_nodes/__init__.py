"""Test-only: a node pack with an architecture of its own, which has a plan once it is registered."""

import folder_paths

from . import plans
from .model import ARCHITECTURES, load


class OwnArchitectureLoader:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "load", "xDiT/test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"unet_name": ("STRING",), "architecture": (list(ARCHITECTURES),)}}

    def load(self, unet_name, architecture):
        return (load(folder_paths.get_full_path_or_raise("diffusion_models", unet_name), architecture),)


class RegisterPlan:
    """Registers a plan before the MODEL goes on."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "register", "xDiT/test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "which": ("STRING",)}}

    def register(self, model, which):
        plans.register(which)
        return (model,)


NODE_CLASS_MAPPINGS = {"OwnArchitectureLoader": OwnArchitectureLoader, "RegisterPlan": RegisterPlan}
