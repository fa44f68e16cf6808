"""Running a loader without its weights: tensors from mmap, or only their shapes.

ComfyUI's own loader functions run unchanged; three names of ComfyUI are swapped while they do, here and nowhere else,
so that they neither read the file into private memory nor put it on a GPU.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from safetensors import safe_open

from .names import printable, shown
from .recipe import Recipe, UnreadableWeights

SMALL_TENSOR = 64 * 1024
SAFETENSORS = (".safetensors", ".sft")

_lock = threading.RLock()


def read_state_dict(path: str, data: bool) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    `data`: CPU tensors that view the file's pages (nothing is read until touched). Otherwise tensors above 64 KB are on
    meta, and smaller ones (scales, quantisation settings, markers that detection looks at) are real copies.
    """
    try:
        with _opened(path) as name, safe_open(name, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except Exception as error:
        raise UnreadableWeights(f"{shown(path)} cannot be read as a safetensors file: {error}") from error
    if data:
        return tensors, metadata
    return {name: _shape_only(tensor) for name, tensor in tensors.items()}, metadata


@contextlib.contextmanager
def _opened(path: str) -> Iterator[str]:
    """A name of the file that safetensors takes: it refuses those that are no UTF-8."""
    if printable(path) == path:
        yield path
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _shape_only(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.numel() * tensor.element_size() <= SMALL_TENSOR:
        return tensor.clone()
    return torch.empty_like(tensor, device="meta")


@contextlib.contextmanager
def _loading(data: bool) -> Iterator[None]:
    """Loader functions called inside get mmapped (`data`) or shape-only tensors, assigned instead of copied."""

    def load_torch_file(ckpt, safe_load=False, device=None, return_metadata=False):
        if not ckpt.lower().endswith(SAFETENSORS):
            if not data:
                raise UnreadableWeights(
                    f"{shown(ckpt)}: xDiT Loader reads safetensors files; save the model as safetensors, or use a stock"
                    " loader"
                )
            return originals["load_torch_file"](ckpt, safe_load, device, return_metadata)
        state_dict, metadata = read_state_dict(ckpt, data)
        return (state_dict, metadata) if return_metadata else state_dict

    def load_model_weights(self, sd, unet_prefix="", assign=False):
        return originals["load_model_weights"](self, sd, unet_prefix, assign=True)

    originals = {
        "load_torch_file": comfy.utils.load_torch_file,
        "load_model_weights": comfy.model_base.BaseModel.load_model_weights,
        "unet_inital_load_device": comfy.model_management.unet_inital_load_device,
    }
    with _lock:
        comfy.utils.load_torch_file = load_torch_file
        comfy.model_base.BaseModel.load_model_weights = load_model_weights
        comfy.model_management.unet_inital_load_device = lambda parameters, dtype: torch.device("cpu")
        try:
            yield
        finally:
            comfy.utils.load_torch_file = originals["load_torch_file"]
            comfy.model_base.BaseModel.load_model_weights = originals["load_model_weights"]
            comfy.model_management.unet_inital_load_device = originals["unet_inital_load_device"]


def load_model(recipe: Recipe, data: bool) -> Any:
    """The BaseModel that `recipe` makes, its weights views of the file (`data`) or shapes on meta.

    Raises UnreadableWeights for a broken file, and whatever the loader raises for an unknown architecture.
    """
    with _loading(data):
        made = recipe.function(*recipe.args, disable_dynamic=True)
    patcher = made if recipe.index is None else made[recipe.index]
    if patcher is None or not isinstance(patcher.model, comfy.model_base.BaseModel):
        raise UnreadableWeights(f"{shown(str(recipe.args[0]))} holds no diffusion model that ComfyUI knows")
    return patcher.model
