"""A module of a name of its own."""

import comfy.samplers
from comfy.k_diffusion.sampling import sample_euler


def sample_scaled(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return sample_euler(model, x * 0.8, sigmas, extra_args, callback, disable)


class OwnPathSampler:
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        return (comfy.samplers.KSAMPLER(sample_scaled),)
