"""A pack that is one file, and that changes its own global."""

import sys

import comfy.samplers
from comfy.k_diffusion.sampling import sample_euler

FACTOR = 0.7


def sample_scaled(model, x, sigmas, extra_args=None, callback=None, disable=None, pack=None):
    return sample_euler(model, x * pack.FACTOR, sigmas, extra_args, callback, disable)


class SingleFileSampler:
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        return (comfy.samplers.KSAMPLER(sample_scaled, {"pack": sys.modules[__name__]}),)


NODE_CLASS_MAPPINGS = {"SingleFileSampler": SingleFileSampler}
