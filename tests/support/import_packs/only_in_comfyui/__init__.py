"""A pack that insists on ComfyUI's web server."""

import comfy.samplers
from comfy.k_diffusion.sampling import sample_euler
from server import PromptServer

if not isinstance(PromptServer.instance, PromptServer):
    raise RuntimeError("there is no web server")


def sample_scaled(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return sample_euler(model, x * 0.5, sigmas, extra_args, callback, disable)


class OnlyInComfyUISampler:
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        return (comfy.samplers.KSAMPLER(sample_scaled),)


NODE_CLASS_MAPPINGS = {"OnlyInComfyUISampler": OnlyInComfyUISampler}
