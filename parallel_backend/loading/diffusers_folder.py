"""Model folders in diffusers layout: diffusers names the architecture and the shards, ComfyUI's converter renames."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import Any

import comfy.sd
import comfy.utils

from ..system.printable_names import shown

FOLDERS = ("transformer", "unet")


class UnknownLayout(ValueError):
    """A diffusers folder that cannot be loaded; the message names what is missing or unknown."""


def model_folder(root: str) -> str:
    """The folder of the diffusion model below a diffusers pipeline folder. Raises UnknownLayout."""
    for name in FOLDERS:
        folder = os.path.join(root, name)
        if os.path.isdir(folder):
            return folder
    raise UnknownLayout(
        f"{shown(root)} has no folder {' or '.join(FOLDERS)}: it holds no diffusion model in diffusers layout"
    )


def weight_files(folder: str) -> list[str]:
    """The safetensors files of a model folder: the shards its index names, or the one. Raises UnknownLayout."""
    if importlib.util.find_spec("diffusers") is None:
        raise UnknownLayout(
            f"{shown(folder)} is in diffusers layout, which is read with diffusers, and that is not installed:"
            f" {sys.executable} -m pip install diffusers"
        )
    from diffusers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFETENSORS_WEIGHTS_NAME

    index = os.path.join(folder, SAFE_WEIGHTS_INDEX_NAME)
    if os.path.exists(index):
        names = _shards(index)
    else:
        names = [SAFETENSORS_WEIGHTS_NAME]
    missing = [name for name in names if not os.path.exists(os.path.join(folder, name))]
    if missing:
        raise UnknownLayout(
            f"{shown(folder)} lacks {', '.join(missing)}; download the folder again, safetensors files included"
        )
    return [os.path.join(folder, name) for name in names]


def _shards(index: str) -> list[str]:
    """The file names that an index names. Raises UnknownLayout."""
    try:
        with open(index, encoding="utf-8") as file:
            return sorted({os.path.normpath(name) for name in json.load(file)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnknownLayout(
            f"{shown(index)} is not an index of shards ({type(error).__name__}: {error}); download the folder again"
        ) from error


def load_diffusers_folder(folder: str, model_options: dict[str, Any], disable_dynamic: bool = False):
    """The patcher of the diffusion model in `folder`, as `comfy.sd.load_diffusion_model` gives it for a file.

    Raises UnknownLayout, naming the diffusers class that ComfyUI's converter does not know.
    """
    state_dict: dict[str, Any] = {}
    for path in weight_files(folder):
        state_dict.update(comfy.utils.load_torch_file(path))
    try:
        patcher = comfy.sd.load_diffusion_model_state_dict(
            state_dict, model_options=model_options, disable_dynamic=disable_dynamic
        )
    except KeyError as error:
        raise UnknownLayout(f"{shown(folder)} holds no weight {error}; download the folder again") from error
    if patcher is None:
        from diffusers.configuration_utils import ConfigMixin

        try:
            architecture = ConfigMixin.load_config(folder).get("_class_name", "this model")
        except OSError:
            architecture = "a model whose config.json is missing or broken,"
        raise UnknownLayout(
            f"{shown(folder)}: ComfyUI has no converter for {architecture} in diffusers layout; use the model's"
            " single-file safetensors of models/diffusion_models with xDiT Loader"
        )
    return patcher
