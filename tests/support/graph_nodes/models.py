"""Tiny model patches, LoRAs as objects, and a MODEL whose predictions are a little off."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.utils
import folder_paths
import torch
from comfy.gligen import GatedSelfAttentionDense, Gligen, PositionNet
from comfy.ldm.wan.uni3c import WanUni3CControlnet
from comfy_extras.nodes_model_patch import MultiTalkModelPatch, SigLIPMultiFeatProjModel

from .register import node

NODES: dict[str, type] = {}


def uso(width: int) -> torch.nn.Module:
    return SigLIPMultiFeatProjModel(
        siglip_token_nums=16,
        style_token_nums=8,
        siglip_token_dims=32,
        hidden_size=width,
        operations=comfy.ops.manual_cast,
    )


def uni3c(width: int) -> torch.nn.Module:
    return WanUni3CControlnet(
        in_channels=36, conv_out_dim=128, dim=128, ffn_dim=128, num_layers=2, time_embed_dim=width, out_proj_dim=width,
        add_channels=7, mid_channels=16, operations=comfy.ops.manual_cast,
    )  # fmt: skip


def multitalk(width: int) -> torch.nn.Module:
    return MultiTalkModelPatch(
        audio_window=5, context_tokens=4, vae_scale=4, in_dim=width, intermediate_dim=32, out_dim=48, num_layers=2,
        operations=comfy.ops.manual_cast,
    )  # fmt: skip


def patched(model: torch.nn.Module) -> comfy.model_patcher.ModelPatcher:
    offload = comfy.model_management.unet_offload_device()
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.CoreModelPatcher(model.eval(), load_device=device, offload_device=offload)


PATCHES = {"uso": uso, "uni3c": uni3c, "multitalk": multitalk}


@node(NODES, "MODEL_PATCH", kind=(list(PATCHES),), width=("INT", {"default": 256, "min": 1, "max": 16384}))
class RandomModelPatch:
    """What ModelPatchLoader gives, for a model of hidden size `width`."""

    def make(self, kind, width):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = PATCHES[kind](width)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.05)
        return (patched(model),)


SDXL_ATTENTIONS = 20  # the transformer blocks of the tiny SDXL


@node(NODES, "GLIGEN")
class RandomGligen:
    """What GLIGENLoader gives, for the tiny SDXL: widths 320 of its blocks, 1280 of a text's pooled output."""

    def make(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            modules = [GatedSelfAttentionDense(320, 1280, 5, 64) for _ in range(SDXL_ATTENTIONS)]
            model = Gligen(modules, PositionNet(1280, 1280), 1280)
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.02)
                else:
                    torch.nn.init.constant_(parameter, 0.3 if "alpha" in name else float("norm" in name))
        return (patched(model),)


@node(NODES, "LORA_MODEL", lora_name=(folder_paths.get_filename_list("loras"),))
class LoraAsObject:
    """What TrainLoraNode gives: the tensors of a LoRA."""

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name):
        return True

    def make(self, lora_name):
        return (comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("loras", lora_name), safe_load=True),)


@node(NODES, "MODEL", model=("MODEL",), number=("INT", {"default": 0}))
class CopiedModel:
    """The same MODEL; another `number` lets ComfyUI run all that comes after it again."""

    def make(self, model, number):
        return (model.clone(),)


def disturbed(executor, *args, **kwargs):
    """The model's prediction, each value off by some 3e-7 of itself, as another order of sums leaves it."""
    out = executor(*args, **kwargs)
    noise = torch.Generator().manual_seed(1)

    def off(value: torch.Tensor) -> torch.Tensor:
        return value * (1 + 3e-7 * torch.randn(value.shape, generator=noise).to(value))

    return off(out) if isinstance(out, torch.Tensor) else type(out)(off(value) for value in out)


@node(NODES, "MODEL", model=("MODEL",))
class DisturbedModel:
    """How far a graph spreads what rounding alone may change."""

    def make(self, model):
        clone = model.clone()
        clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "disturbed", disturbed)
        return (clone,)
