"""Nodes that change something in ComfyUI's process beside the MODEL's patcher, or use the model themselves."""

import functools
import threading
import types

import comfy.ldm.flux.layers
import comfy.ldm.flux.math
import comfy.ldm.flux.model
import comfy.model_management
import comfy.samplers
import torch

from .models import halved_forward

NODES = {}
SETTINGS = {"factor": 1.0}
ORIGINAL = {
    (comfy.ldm.flux.model.Flux, "forward_orig"): comfy.ldm.flux.model.Flux.forward_orig,
    (comfy.ldm.flux.layers.SelfAttention, "forward"): comfy.ldm.flux.layers.SelfAttention.__dict__.get("forward"),
    (comfy.ldm.flux.layers.DoubleStreamBlock, "forward"): comfy.ldm.flux.layers.DoubleStreamBlock.forward,
    (comfy.ldm.flux.layers, "attention"): comfy.ldm.flux.layers.attention,
    (comfy.samplers, "sampling_function"): comfy.samplers.sampling_function,
}


def node(returns=("MODEL",), **inputs):
    """Register a class whose `make(self, model, **inputs)` runs each time."""

    def register(cls):
        cls.INPUT_TYPES = classmethod(lambda _: {"required": {"model": ("MODEL",), **inputs}})
        cls.RETURN_TYPES, cls.FUNCTION, cls.CATEGORY = returns, "make", "foreign"
        cls.IS_CHANGED = classmethod(lambda _, **inputs: float("nan"))
        NODES[cls.__name__] = cls
        return cls

    return register


def sampling_times_factor(*args, **kwargs):
    """Reads what the node put into this module."""
    return ORIGINAL[comfy.samplers, "sampling_function"](*args, **kwargs) * SETTINGS["factor"]


def in_disguise(original, factor):
    @functools.wraps(original)
    def replaced(self, *args, **kwargs):
        return original(self, *args, **kwargs) * factor

    return replaced


def with_lock(original, factor):
    lock = threading.Lock()

    def replaced(*args, **kwargs):
        with lock:
            return original(*args, **kwargs) * factor

    return replaced


WHERE = {
    "a method of the model": (comfy.ldm.flux.model.Flux, "forward_orig", in_disguise),
    "a function of the sampler": (comfy.samplers, "sampling_function", None),
    "with a lock, in the model": (comfy.ldm.flux.layers, "attention", with_lock),
    "with a lock, in the sampler": (comfy.samplers, "sampling_function", with_lock),
}


@node(where=(list(WHERE),), factor=("FLOAT", {"default": 0.7}))
class ForeignReplaces:
    """A method of a class, a function of the sampler: replaced for the whole process."""

    def make(self, model, where, factor):
        owner, name, make = WHERE[where]
        SETTINGS["factor"] = factor
        setattr(owner, name, make(ORIGINAL[owner, name], factor) if make else sampling_times_factor)
        return (model,)


@node()
class ForeignReplacesNothing:
    """Undoes ForeignReplaces."""

    def make(self, model):
        for (owner, name), own in ORIGINAL.items():
            if own is not None:
                setattr(owner, name, own)
        return (model,)


def scale_output(module, args, output):
    return tuple(one * 0.7 for one in output)


def scale_input(module, args):
    return args[0] * 0.5, *args[1:]


class Scaled(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs) * 0.7


class HalvedLayer(comfy.ldm.flux.layers.LastLayer):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) * 0.6


def remembering(module):
    """Not bound to the module: holds what was there before."""
    before = module.forward

    def forward(*args, **kwargs):
        return before(*args, **kwargs) * 0.6

    return forward


CHANGES = {
    "forward": lambda m: setattr(m, "forward_orig", types.MethodType(halved_forward, m)),
    "forward that holds the one before": lambda m: setattr(m.final_layer, "forward", remembering(m.final_layer)),
    "hook": lambda m: m.double_blocks[0].register_forward_hook(scale_output),
    "hook before": lambda m: m.final_layer.register_forward_pre_hook(scale_input),
    "attribute": lambda m: setattr(m.pe_embedder, "theta", 50),
    "order of blocks": lambda m: setattr(m, "double_blocks", torch.nn.ModuleList(list(m.double_blocks)[::-1])),
    "class": lambda m: setattr(m.final_layer, "__class__", HalvedLayer),
    "submodule": lambda m: setattr(m, "txt_in", Scaled(m.txt_in)),
    "weight": lambda m: m.double_blocks[0].img_attn.qkv.weight.mul_(1.5),
    "bias": lambda m: m.double_blocks[0].img_attn.qkv.bias.add_(0.5),
    "new weight": lambda m: setattr(m.img_in, "weight", torch.nn.Parameter(torch.ones(m.img_in.weight.shape))),
}


@node(what=(list(CHANGES),))
class ForeignChanges:
    """The loaded model itself is changed, once."""

    def make(self, model, what):
        CHANGES[what](model.model.diffusion_model)
        return (model.clone(),)


def large(model):
    """A layer whose weight is more than what loaders read of a file at once."""
    return model.double_blocks[0].img_attn.qkv


USES = {
    "mean": lambda m: large(m).weight.mean(),
    "clone": lambda m: large(m).weight.clone(),
    "to the cpu": lambda m: large(m).weight.to("cpu"),
    "copy into": lambda m: torch.empty(large(m).weight.shape).copy_(large(m).weight.data),
    "state dict": lambda m: sum(one.sum() for one in m.state_dict().values()),
    "forward of a layer": lambda m: large(m)(torch.ones(1, 2, large(m).weight.shape[1])),
    "forward of a block": lambda m: m.final_layer(torch.ones(1, 4, m.hidden_size), torch.ones(1, m.hidden_size)),
    "comfy's cast": lambda m: comfy.model_management.cast_to_device(
        large(m).weight, torch.device("cpu"), torch.float32
    ),
}


@node(("LATENT",), what=(list(USES),))
class ForeignUses:
    """Computes with the model's weights itself, as packs that merge, edit or analyse models do."""

    def make(self, model, what):
        out = torch.as_tensor(USES[what](model.model.diffusion_model)).float().flatten()
        return ({"samples": out[:64].reshape(1, 1, 1, -1).clone()},)


@node(("LATENT",))
class ForeignLooks:
    """Only looks: names, shapes, dtypes, sizes."""

    def make(self, model):
        weights = model.model.state_dict()
        numbers = [len(weights), sum(one.numel() * one.element_size() for one in weights.values())]
        numbers += [comfy.model_management.module_size(model.model), *model.model.diffusion_model.img_in.weight.shape]
        numbers += [float(one.dtype == torch.float32) for one in list(weights.values())[:3]]
        numbers.append(len(repr(model.model.diffusion_model)) > 0)
        return ({"samples": torch.tensor(numbers, dtype=torch.float32).reshape(1, 1, 1, -1)},)
