"""The loaders: MODELs that weigh nothing in ComfyUI's process, because their weights go to the ranks only."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import comfy.sd
import folder_paths
import torch
from comfy_api.latest import io

from ..parallel_backend.contract.config import ParallelConfig
from ..parallel_backend.contract.recipe import Recipe
from ..parallel_backend.host.base.devices import resolve
from ..parallel_backend.host.model.weightless_model import XDiTModelPatcher
from ..parallel_backend.loading.diffusers_folder import load_diffusers_folder, model_folder
from .config import CATEGORY, config_input
from .owner import owner

WEIGHT_DTYPES = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}
WEIGHT_DTYPE_TOOLTIP = "The dtype of the weights in the ranks. default: as in the file."


def _preload_input() -> io.Input:
    return io.Boolean.Input(
        "preload",
        default=False,
        optional=True,
        tooltip="The ranks read the weights as soon as this node runs, while ComfyUI goes on with the text encoder and"
        " whatever else comes before the sampler. Only if they fit beside what the devices hold at that moment.",
    )


def _load(recipe: Recipe, config: ParallelConfig | None, preload: bool) -> XDiTModelPatcher:
    wanted = config or ParallelConfig()
    devices = resolve(wanted.devices)
    start = owner.manager.warm_up(devices, wanted.may_leave_out)
    model = XDiTModelPatcher.from_recipe(recipe, config, owner.seam)
    if preload and start is not None:
        owner.preloads.ask(model, start)
        owner.loaded_models.expect(start)
    elif preload:
        logging.info("xDiT: %s is not preloaded: there are ranks on other devices", model.identity().title)
    return model


def _fingerprint(recipe: Callable[..., Recipe], *inputs: str | None) -> str:
    """What ComfyUI compares before it takes a loaded MODEL from its cache: it changes with the files."""
    return "" if None in inputs else recipe(*inputs).identity().key  # None: a link, whose value is not known yet


def _recipe(unet_name: str, weight_dtype: str) -> Recipe:
    path = folder_paths.get_full_path_or_raise("diffusion_models", unet_name)
    return Recipe(comfy.sd.load_diffusion_model, (path, WEIGHT_DTYPES[weight_dtype]))


def _checkpoint_recipe(ckpt_name: str) -> Recipe:
    path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
    embeddings = folder_paths.get_folder_paths("embeddings")
    return Recipe(comfy.sd.load_checkpoint_guess_config, (path, False, False, False, embeddings, True, {}, {}), index=0)


def _diffusers_recipe(model_path: str, weight_dtype: str) -> Recipe:
    places = [os.path.join(root, model_path) for root in folder_paths.get_folder_paths("diffusers")]
    folder = next((place for place in places if os.path.isdir(place)), places[0])
    return Recipe(load_diffusers_folder, (model_folder(folder), WEIGHT_DTYPES[weight_dtype]))


class XDiTLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XDiTLoader",
            display_name="xDiT Loader",
            category=CATEGORY,
            description="Loads a diffusion model for sampling on several devices. Its weights are loaded in the ranks;"
            " in ComfyUI's own process the MODEL weighs nothing.",
            search_aliases=["xdit", "multi gpu", "load diffusion model", "unet"],
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="A safetensors file of models/diffusion_models.",
                ),
                io.Combo.Input("weight_dtype", options=list(WEIGHT_DTYPES), tooltip=WEIGHT_DTYPE_TOOLTIP),
                config_input(),
                _preload_input(),
            ],
            outputs=[io.Model.Output(tooltip="Works with LoRA, ModelSampling and sampler nodes as any MODEL does.")],
        )

    @classmethod
    def fingerprint_inputs(cls, unet_name=None, weight_dtype=None, parallel_config=None, preload=False) -> str:
        return _fingerprint(_recipe, unet_name, weight_dtype)

    @classmethod
    def execute(cls, unet_name, weight_dtype, parallel_config=None, preload=False) -> io.NodeOutput:
        return io.NodeOutput(_load(_recipe(unet_name, weight_dtype), parallel_config, preload))


class XDiTCheckpointLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XDiTCheckpointLoader",
            display_name="xDiT Checkpoint Loader",
            category=CATEGORY,
            description="Loads a checkpoint: the diffusion model for the ranks, text encoder and VAE for ComfyUI.",
            search_aliases=["xdit", "multi gpu", "load checkpoint"],
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=folder_paths.get_filename_list("checkpoints"),
                    tooltip="A safetensors file of models/checkpoints.",
                ),
                config_input(),
                _preload_input(),
            ],
            outputs=[
                io.Model.Output(tooltip="The diffusion model, its weights in the ranks."),
                io.Clip.Output(tooltip="The text encoder, loaded by ComfyUI as always."),
                io.Vae.Output(tooltip="The VAE, loaded by ComfyUI as always."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, ckpt_name=None, parallel_config=None, preload=False) -> str:
        return _fingerprint(_checkpoint_recipe, ckpt_name)

    @classmethod
    def execute(cls, ckpt_name, parallel_config=None, preload=False) -> io.NodeOutput:
        recipe = _checkpoint_recipe(ckpt_name)
        model = _load(recipe, parallel_config, preload)
        _, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
            recipe.args[0],
            output_vae=True,
            output_clip=True,
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            output_model=False,
        )
        return io.NodeOutput(model, clip, vae)


class XDiTDiffusersLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XDiTDiffusersLoader",
            display_name="xDiT Diffusers Loader",
            category=CATEGORY,
            description="Loads the diffusion model of a folder in diffusers layout (transformer/ or unet/, single or"
            " sharded safetensors) for sampling on several devices.",
            search_aliases=["xdit", "multi gpu", "diffusers"],
            inputs=[
                io.Combo.Input(
                    "model_path",
                    options=_diffusers_folders(),
                    tooltip="A folder of models/diffusers that holds a model_index.json.",
                ),
                io.Combo.Input("weight_dtype", options=list(WEIGHT_DTYPES), tooltip=WEIGHT_DTYPE_TOOLTIP),
                config_input(),
                _preload_input(),
            ],
            outputs=[io.Model.Output(tooltip="The diffusion model, its weights in the ranks.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model_path=None, weight_dtype=None, parallel_config=None, preload=False) -> str:
        return _fingerprint(_diffusers_recipe, model_path, weight_dtype)

    @classmethod
    def execute(cls, model_path, weight_dtype, parallel_config=None, preload=False) -> io.NodeOutput:
        return io.NodeOutput(_load(_diffusers_recipe(model_path, weight_dtype), parallel_config, preload))


def _diffusers_folders() -> list[str]:
    found = []
    for root in folder_paths.get_folder_paths("diffusers"):
        for folder, _, files in os.walk(root, followlinks=True):
            if "model_index.json" in files:
                found.append(os.path.relpath(folder, root))
    return sorted(found)
