"""A sampler whose function and options lie in different parts of the pack, and a patch inside the model."""

import comfy.samplers
from comfy.k_diffusion.sampling import sample_euler

from .scale import Scale, ScaledOutput


def sample_scaled(model, x, sigmas, extra_args=None, callback=None, disable=None, scale=None):
    return sample_euler(model, x * scale.value, sigmas, extra_args, callback, disable)


class FolderPackSampler:
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        return (comfy.samplers.KSAMPLER(sample_scaled, {"scale": Scale("small")}),)


class FolderPackPatch:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        model = model.clone()
        model.set_model_patch(ScaledOutput(Scale("small")), "post_input")
        return (model,)
