"""A node pack that replaces functions of ComfyUI as soon as it is imported, and gives two nodes for that."""

import threading

import comfy.ldm.flux.layers
import comfy.ldm.wan.model

from . import settings

own_attention = comfy.ldm.flux.layers.attention
lock = threading.Lock()


def attention(q, k, v, *args, **kwargs):
    return own_attention(q * settings.factor, k, v, *args, **kwargs)


def sinusoidal(*args, lock=lock, **kwargs):
    """Cannot be sent, and no Flux reaches it."""
    return own_sinusoidal(*args, **kwargs)


own_sinusoidal = comfy.ldm.wan.model.sinusoidal_embedding_1d
comfy.ldm.wan.model.sinusoidal_embedding_1d = sinusoidal
comfy.ldm.flux.layers.attention = attention


class PackFactor:
    """Sets what the replaced function reads, or puts ComfyUI's own one back."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "make", "foreign"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 (ComfyUI's name)
        return {"required": {"model": ("MODEL",), "factor": ("FLOAT", {"default": 0.5}), "replace": ("BOOLEAN",)}}

    @classmethod
    def IS_CHANGED(cls, **inputs):  # noqa: N802
        return float("nan")

    def make(self, model, factor, replace):
        settings.factor = factor
        comfy.ldm.flux.layers.attention = attention if replace else own_attention
        model = model.clone()
        model.set_model_sampler_post_cfg_function(unchanged)  # so that the ranks import this pack
        return (model,)


def unchanged(arguments):
    return arguments["denoised"]


NODE_CLASS_MAPPINGS = {"PackFactor": PackFactor}
