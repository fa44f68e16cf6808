"""Patches, ControlNets and conditionings that look at all conditions or all rows of a model call."""

import copy
import types

import comfy.conds
import comfy.controlnet
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import PatcherInjection, WrappersMP

from .CrossAttentionPatch import Attn2Replace, ipadapter_attention
from .models import NODES, node


def mixed(out):
    """Each row with a little of the row that lies across from it."""
    return out + 0.3 * out.flip(0)


@node(where=(["attn1_output_patch", "attn1_patch", "input_block_patch"],))
class ForeignMixingPatch:
    """A patch for UNets and Flux that mixes the rows of a call."""

    def make(self, model, where):
        m = model.clone()
        patches = {
            "attn1_output_patch": lambda out, extra_options: mixed(out),
            "attn1_patch": mixing_attention_patch,
            "input_block_patch": lambda h, transformer_options: mixed(h),
        }
        m.set_model_patch(patches[where], where)
        return (m,)


def mixing_attention_patch(q, k, v, pe=None, attn_mask=None, extra_options=None):
    if pe is None:
        return mixed(q), k, v
    return {"q": mixed(q), "k": k, "v": v, "pe": pe}


@node()
class ForeignMixingReplacement:
    """As pre_cfg: cross-attention in the place of a UNet's, whose rows know of each other."""

    def make(self, model):
        m = model.clone()

        def replaced(q, k, v, extra_options):
            return mixed(optimized_attention(q, k, v, extra_options["n_heads"]))

        m.set_model_attn2_replace(replaced, "middle", 0)
        return (m,)


def forward_of_all_rows(self, x, *args, **kwargs):
    return mixed(type(self).forward(self, x, *args, **kwargs))


@node()
class ForeignMixingForward:
    """As KJNodes' NAG for Wan: another forward of cross-attention that weighs the rows of a call."""

    def make(self, model):
        m = model.clone()
        for index, block in enumerate(m.get_model_object("diffusion_model").blocks):
            bound = types.MethodType(forward_of_all_rows, block.cross_attn)
            m.add_object_patch(f"diffusion_model.blocks.{index}.cross_attn.forward", bound)
        return (m,)


@node(where=(["function wrapper", "apply_model", "diffusion_model", "calc_cond_batch", "injection", "attention"],))
class ForeignCallCounter:
    """What it does depends on how many rows a call has, wherever it is put."""

    def make(self, model, where):
        m = model.clone()

        def around(function, parameters):
            out = function(parameters["input"], parameters["timestep"], **parameters["c"])
            return out * (1 + 0.1 * out.shape[0])

        def wrapper(executor, x, *args, **kwargs):
            return executor(x, *args, **kwargs) * (1 + 0.1 * x.shape[0])

        def outer(executor, model, conds, *args, **kwargs):
            number = sum(cond is not None for cond in conds)
            return [out * (1 + 0.1 * number) for out in executor(model, conds, *args, **kwargs)]

        def attention(function, q, *args, **kwargs):
            return function(q * (1 + 0.3 * q.shape[0]), *args, **kwargs)

        if where == "function wrapper":
            m.set_model_unet_function_wrapper(around)
        elif where == "calc_cond_batch":
            m.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "foreign", outer)
        elif where == "injection":
            m.set_injections("foreign", [PatcherInjection(inject=inject, eject=eject)])
        elif where == "attention":
            m.model_options["transformer_options"]["optimized_attention_override"] = attention
        else:
            m.add_wrapper_with_key(where, "foreign", wrapper)
        return (m,)


@node()
class ForeignSwapWhileSampling:
    """A wrapper around the whole run replaces a forward in the model and puts it back."""

    def make(self, model):
        m = model.clone()

        def around(executor, *args, **kwargs):
            patcher = executor.class_obj.model_patcher
            inject(patcher)
            try:
                return executor(*args, **kwargs)
            finally:
                eject(patcher)

        m.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "foreign", around)
        return (m,)


def inject(patcher):
    final = patcher.model.diffusion_model.final_layer
    final.forward = types.MethodType(forward_of_all_rows, final)


def eject(patcher):
    del patcher.model.diffusion_model.final_layer.forward


@node(weight=("FLOAT", {"default": 0.5}))
class ForeignIPAdapter:
    """As IPAdapter_plus: a picture for each condition, picked by its number."""

    def make(self, model, weight):
        m = model.clone()
        for place in (("middle", 0), ("input", 4), ("output", 3)):
            m.set_model_attn2_replace(Attn2Replace(ipadapter_attention, weight=weight), *place)
        return (m,)


class KeyframedControlNet(comfy.controlnet.ControlNet):
    """Each image of the batch has a strength of its own."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        found = super().get_control(x_noisy, t, cond, batched_number, transformer_options)
        rows = x_noisy.shape[0] // batched_number
        weights = torch.linspace(1.0, 0.2, rows, dtype=x_noisy.dtype).repeat(batched_number)
        for residuals in found.values():
            for number, residual in enumerate(residuals):
                if residual is not None:
                    residuals[number] = residual * weights.view(-1, *[1] * (residual.ndim - 1))
        return found

    def copy(self):
        return keyframed(super().copy())


class OneRowControlNet(comfy.controlnet.ControlNet):
    """Its residuals have one row for all tokens."""

    def get_control(self, *args):
        found = super().get_control(*args)
        return {
            name: [None if residual is None else residual.mean(1, keepdim=True) for residual in residuals]
            for name, residuals in found.items()
        }

    def copy(self):
        made = super().copy()
        made.__class__ = OneRowControlNet
        return made


def keyframed(control):
    made = copy.copy(control)
    made.__class__ = KeyframedControlNet
    return made


class ForeignControlNet:
    """As Advanced-ControlNet: a class of its own for a ControlNet that ComfyUI loaded."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CONTROL_NET",), "make", "foreign"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"control_net": ("CONTROL_NET",), "kind": (["keyframed", "one row"],)}}

    def make(self, control_net, kind):
        made = keyframed(control_net)
        made.__class__ = KeyframedControlNet if kind == "keyframed" else OneRowControlNet
        return (made,)


class RowGuidance(comfy.conds.CONDRegular):
    """Guidance that grows with the number of the image."""

    def process_cond(self, batch_size, **kwargs):
        return self._copy_with(self.cond * torch.linspace(1.0, 2.0, batch_size))

    def concat(self, others):
        return torch.cat([self.cond, *(other.cond for other in others)]) * (1 + len(others))


class Note:
    """Something that a pack leaves for itself."""


class ForeignConditioning:
    """Conditions of a class of the pack's own, or with an object of the pack's own."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "make", "foreign"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",), "kind": (["class", "entry"],)}}

    def make(self, conditioning, kind):
        made = []
        for text, options in conditioning:
            if kind == "entry":
                made.append([text, {**options, "note": Note()}])
            else:
                conds = {"guidance": RowGuidance(torch.ones(1) * 3)}
                made.append([text, {**options, "guidance": None, "model_conds": conds}])
        return (made,)


NODES |= {"ForeignControlNet": ForeignControlNet, "ForeignConditioning": ForeignConditioning}
