"""The model that is looked at, of a safetensors file or of a class: without weights, so that it may be of any size."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from dataclasses import dataclass
from typing import Any

import comfy.ops
import comfy.sd
import torch

from ..contract.recipe import Recipe
from ..loading.meta_loading import load_model

FACTORY = {"device": "meta", "dtype": torch.float32, "operations": comfy.ops.disable_weight_init}
CHANNELS = (16, 4, 32, 128)  # of the latents that ComfyUI's models have


class NoModel(ValueError):
    """What was named is no model that can be built here."""


@dataclass(frozen=True)
class Source:
    """A diffusion model on meta. `channels`: those that its latents may have, the likely ones first; `dims`: whether
    they have height and width (2), or time, too (3); None where this is not known.
    """

    model: torch.nn.Module
    channels: tuple[int, ...]
    dims: int | None


def source(what: str, config: dict[str, Any]) -> Source:
    """`what`: a safetensors file, "module:Class", or "file.py:Class" of a node pack. `config`: what the class is made
    with. Raises NoModel.
    """
    path, _, name = what.rpartition(":")
    if not path:
        return _of_file(what)
    cls = _class_of_pack(path, name) if path.endswith(".py") else _class(path, name)
    try:
        model = cls(**{**config, **FACTORY})
    except (TypeError, KeyError, AttributeError) as error:
        raise NoModel(
            f"{what} cannot be made with {config or 'no arguments'}: {type(error).__name__}: {error}; give its"
            f" arguments as --config JSON: {inspect.signature(cls)}"
        ) from error
    convolutions = _convolutions(model)
    channels = [getattr(model, "in_channels", None), *(item.in_channels for item in convolutions), *CHANNELS]
    known = dict.fromkeys(value for value in channels if isinstance(value, int))
    video = bool(convolutions) and isinstance(convolutions[0], torch.nn.Conv3d)
    return Source(model.eval().requires_grad_(False), tuple(known), 3 if video else None)


def _of_file(path: str) -> Source:
    if not os.path.isfile(path):
        raise NoModel(f"{path} is neither a file nor module:Class")
    try:
        base = load_model(Recipe(comfy.sd.load_diffusion_model, (path,)), data=False)
    except Exception as error:
        raise NoModel(f"{path} cannot be loaded: {error}") from error
    latent, config = base.latent_format, base.model_config.unet_config
    channels = dict.fromkeys((config.get("in_channels"), config.get("in_dim"), latent.latent_channels))
    # made anew: without the file's format of weights, and without the small tensors that are read with the shapes
    model = type(base.diffusion_model)(**{**config, **FACTORY})
    known = tuple(value for value in channels if isinstance(value, int))
    return Source(model.eval().requires_grad_(False), known, latent.latent_dimensions)


def _convolutions(model: torch.nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d)]


def _class(module: str, name: str) -> type:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise NoModel(f"there is no {name} in {module}: {error}") from error


def _class_of_pack(file: str, name: str) -> type:
    """Of a pack below custom_nodes, or of the outermost package around the file, imported under ComfyUI's name."""
    file = os.path.abspath(file)
    if not os.path.isfile(file):
        raise NoModel(f"there is no file {file}")
    root = os.path.dirname(file)
    while os.path.basename(os.path.dirname(root)) != "custom_nodes" and os.path.exists(
        os.path.join(os.path.dirname(root), "__init__.py")
    ):
        root = os.path.dirname(root)
    pack = root.replace(".", "_x_")
    if pack not in sys.modules:
        entry = os.path.join(root, "__init__.py")
        if not os.path.isfile(entry):
            raise NoModel(f"{file} is no file of a node pack: there is no {entry}")
        spec = importlib.util.spec_from_file_location(pack, entry, submodule_search_locations=[root])
        assert spec is not None and spec.loader is not None  # as for every .py file
        sys.modules[pack] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    inner = os.path.relpath(file, root).removesuffix(".py").replace(os.sep, ".")
    return _class(pack if inner == "__init__" else f"{pack}.{inner}", name)
