"""Patches of a MODEL in the ways that node packs use."""

import types
from unittest.mock import patch

import comfy.ldm.flux.layers
import comfy.ldm.flux.math
import comfy.model_management
import torch

NODES = {}


def node(**inputs):
    """Register a class whose `make(self, **inputs)` gives a MODEL."""

    def register(cls):
        cls.INPUT_TYPES = classmethod(lambda _: {"required": {"model": ("MODEL",), **inputs}})
        if not hasattr(cls, "RETURN_TYPES"):
            cls.RETURN_TYPES = ("MODEL",)
        cls.FUNCTION, cls.CATEGORY = "make", "foreign"
        NODES[cls.__name__] = cls
        return cls

    return register


def halved_forward(self, *args, **kwargs):
    """A replaced forward_orig: the model's own, its output times 0.6."""
    return type(self).forward_orig(self, *args, **kwargs) * 0.6


@node()
class ForeignForwardSwap:
    """As step caches do (TeaCache): around each call the diffusion model's inner forward is another one."""

    def make(self, model):
        m = model.clone()
        diffusion_model = m.get_model_object("diffusion_model")
        swap = patch.multiple(
            diffusion_model, forward_orig=halved_forward.__get__(diffusion_model, type(diffusion_model))
        )

        def wrapper(model_function, parameters):
            with swap:
                return model_function(parameters["input"], parameters["timestep"], **parameters["c"])

        m.set_model_unet_function_wrapper(wrapper)
        return (m,)


@node()
class ForeignInPlace:
    """As the first PuLID for Flux did: the loaded model itself is changed, beside its patcher."""

    def make(self, model):
        diffusion_model = model.model.diffusion_model
        diffusion_model.forward_orig = types.MethodType(halved_forward, diffusion_model)
        return (model.clone(),)


def attention_times(factor, together):
    def forward(self, x, *args, **kwargs):
        out = type(self).forward(self, x, *args, **kwargs)
        scale = 1 + factor * x.abs().mean((1, 2), keepdim=True) if together else factor
        return out * scale

    return forward


@node(where=(["self_attn", "cross_attn"],), tokens=(["each by itself", "all together"],))
class ForeignBoundMethod:
    """As KJNodes' patches for Wan do: another forward for a submodule, bound to it, as an object patch."""

    def make(self, model, where, tokens):
        m = model.clone()
        diffusion_model = m.get_model_object("diffusion_model")
        forward = attention_times(0.6, tokens == "all together")
        for index, block in enumerate(diffusion_model.blocks):
            bound = types.MethodType(forward, getattr(block, where))
            m.add_object_patch(f"diffusion_model.blocks.{index}.{where}.forward", bound)
        return (m,)


@node(temperature=("FLOAT", {"default": 0.5}))
class ForeignAttentionTemperature:
    """An attention override that changes what is computed, whatever the order of tokens."""

    def make(self, model, temperature):
        m = model.clone()

        def override(function, q, k, v, heads, *args, **kwargs):
            return function(q * temperature, k, v, heads, *args, **kwargs)

        m.model_options["transformer_options"]["optimized_attention_override"] = override
        return (m,)


@node(text=("INT", {"default": 16}), strength=("FLOAT", {"default": 4.0}))
class ForeignRegionalAttention:
    """Regional prompting on Flux: text is seen by the first half of the image only, in attention over both."""

    def make(self, model, text, strength):
        m = model.clone()

        def override(function, q, k, v, heads, mask=None, **kwargs):
            length = q.shape[-2] if kwargs.get("skip_reshape") else q.shape[1]
            bias = torch.zeros(length, length, dtype=q.dtype, device=q.device)
            half = text + (length - text) // 2
            bias[half:, :text] = -strength
            return function(q, k, v, heads, mask=bias if mask is None else mask + bias, **kwargs)

        m.model_options["transformer_options"]["optimized_attention_override"] = override
        return (m,)


ORIGINAL_ATTENTION = {module: module.attention for module in (comfy.ldm.flux.layers, comfy.ldm.flux.math)}


@node(factor=("FLOAT", {"default": 0.6}))
class ForeignGlobalFunction:
    """As Flux Attention Control does: a function of ComfyUI is replaced by another one, for the whole process."""

    def make(self, model, factor):
        own = ORIGINAL_ATTENTION[comfy.ldm.flux.math]

        def attention(q, k, v, *args, **kwargs):
            return own(q * factor, k, v, *args, **kwargs)

        for module in ORIGINAL_ATTENTION:
            module.attention = attention
        return (model,)


@node()
class ForeignGlobalCleanup:
    RETURN_TYPES = ("MODEL",)

    def make(self, model):
        for module, own in ORIGINAL_ATTENTION.items():
            module.attention = own
        return (model,)


@node(seed=("INT", {"default": 1}))
class ForeignRunsModel:
    """Runs the MODEL itself, without a sampler, as inversion and editing packs do."""

    RETURN_TYPES = ("LATENT",)

    def make(self, model, seed):
        comfy.model_management.load_models_gpu([model])
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, 16, 12, 16, generator=generator)
        context, y = torch.randn(1, 8, 128, generator=generator), torch.randn(1, 64, generator=generator)
        out = model.model.apply_model(
            x, torch.tensor([0.7]), c_crossattn=context, y=y, guidance=torch.tensor([3.5]), transformer_options={}
        )
        return ({"samples": out},)


@node()
class ForeignSharedVariable:
    """Two functions of one node that share a variable, as Self-Attention Guidance, ToMe and HyperTile have."""

    def make(self, model):
        m = model.clone()
        seen = None

        def remember(function, parameters):
            nonlocal seen
            out = function(parameters["input"], parameters["timestep"], **parameters["c"])
            seen = out.std().item()
            return out

        def use(arguments):
            return arguments["denoised"] if seen is None else arguments["denoised"] / (0.5 + seen)

        m.set_model_unet_function_wrapper(remember)
        m.set_model_sampler_post_cfg_function(use)
        return (m,)
