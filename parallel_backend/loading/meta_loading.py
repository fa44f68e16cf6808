"""Running a loader without its weights: tensors from mmap, or only their shapes.

ComfyUI's own loader functions run unchanged; three names of ComfyUI are swapped while they do, here and nowhere else,
so that they neither read the file into private memory nor put it on a GPU. What other threads load meanwhile is loaded
by ComfyUI as ever.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from safetensors import safe_open

from ..contract.recipe import Recipe, UnreadableWeights
from ..system.printable_names import printable, shown

SMALL_TENSOR = 64 * 1024
SAFETENSORS = (".safetensors", ".sft")

_this_thread = threading.local()


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
    """Loader functions that this thread calls inside get mmapped (`data`) or shape-only tensors, assigned instead of
    copied.
    """
    before, _this_thread.data = _wanted(), data
    _swaps.enter()
    try:
        yield
    finally:
        _swaps.leave()
        _this_thread.data = before


def _wanted() -> bool | None:
    """`data` of what this thread loads through here; None while it loads nothing."""
    return getattr(_this_thread, "data", None)


class _Swaps:
    """ComfyUI's names stand for ours while any thread is inside. Another pack's replacement of ours meanwhile stays."""

    def __init__(self):
        self._lock = threading.Lock()
        self._inside = 0
        self._made: list[tuple[Any, str, Callable, Callable]] = []

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                for owner, name, replacement in REPLACEMENTS:
                    original = getattr(owner, name)
                    ours = replacement(original)
                    setattr(owner, name, ours)
                    self._made.append((owner, name, ours, original))
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for owner, name, ours, original in self._made:
                    if getattr(owner, name) is ours:
                        setattr(owner, name, original)
                self._made.clear()


def _load_torch_file(original: Callable) -> Callable:
    @functools.wraps(original)
    def load_torch_file(ckpt, safe_load=False, device=None, return_metadata=False):
        if (data := _wanted()) is None:
            return original(ckpt, safe_load, device, return_metadata)
        if not ckpt.lower().endswith(SAFETENSORS):
            if not data:
                raise UnreadableWeights(
                    f"{shown(ckpt)}: xDiT Loader reads safetensors files; save the model as safetensors, or use a stock"
                    " loader"
                )
            return original(ckpt, safe_load, device, return_metadata)
        state_dict, metadata = read_state_dict(ckpt, data)
        return (state_dict, metadata) if return_metadata else state_dict

    return load_torch_file


def _load_model_weights(original: Callable) -> Callable:
    @functools.wraps(original)
    def load_model_weights(self, sd, unet_prefix="", assign=False):
        if _wanted() is None:
            return original(self, sd, unet_prefix, assign=assign)
        with _missing_noted(self):
            return original(self, sd, unet_prefix, assign=True)

    return load_model_weights


@contextlib.contextmanager
def _missing_noted(model: comfy.model_base.BaseModel) -> Iterator[None]:
    """`model.xdit_missing`: parameters that the file does not have. ComfyUI warns of them, and leaves them on unset
    memory; here they are zeros, so that ranks compute alike.
    """
    load = model.diffusion_model.load_state_dict
    missing: set[str] = set()

    def load_state_dict(*args, **kwargs):
        result = load(*args, **kwargs)
        missing.update(f"diffusion_model.{name}" for name in result.missing_keys)
        tensors = dict(chain(model.diffusion_model.named_parameters(), model.diffusion_model.named_buffers()))
        for tensor in (tensors[name] for name in result.missing_keys if name in tensors):
            if type(tensor.data) is torch.Tensor and not tensor.is_meta:
                tensor.data.zero_()
        return result

    model.diffusion_model.load_state_dict = load_state_dict
    try:
        yield
    finally:
        del model.diffusion_model.load_state_dict
        model.xdit_missing = frozenset(missing)


def _unet_inital_load_device(original: Callable) -> Callable:
    @functools.wraps(original)
    def unet_inital_load_device(*args, **kwargs):
        return original(*args, **kwargs) if _wanted() is None else torch.device("cpu")

    return unet_inital_load_device


REPLACEMENTS = (
    (comfy.utils, "load_torch_file", _load_torch_file),
    (comfy.model_base.BaseModel, "load_model_weights", _load_model_weights),
    (comfy.model_management, "unet_inital_load_device", _unet_inital_load_device),
)
_swaps = _Swaps()


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
