"""Imports node packs in a rank as ComfyUI does (nodes.load_custom_node), so that no class exists twice."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Mapping

import folder_paths
import torch

from ...system.printable_names import shown


class PackImportFailed(ImportError):
    """A pack's own code raised while a rank imported it; the message names the pack and the cause."""


def import_packs(packs: Mapping[str, str]) -> None:
    """Import the packs, name → file, that are not here yet, in this order. Raises PackImportFailed."""
    missing = {name: file for name, file in packs.items() if name not in sys.modules}
    if not missing:
        return
    _search_as_comfyui()
    with torch.inference_mode(False):
        for name, file in missing.items():
            # ComfyUI imports packs with an event loop running, and some start tasks.
            asyncio.run(_import(name, file))


def _search_as_comfyui() -> None:
    """ComfyUI puts its folder `comfy` in front for old packs; its own `utils` has been imported by then."""
    folder = os.path.join(os.path.dirname(os.path.realpath(folder_paths.__file__)), "comfy")
    if folder not in sys.path:
        importlib.import_module("utils.extra_config")
        sys.path.insert(0, folder)


async def _import(name: str, file: str) -> None:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PackImportFailed(
            f"the node pack {shown(os.path.basename(file))} cannot be imported outside ComfyUI's process: it is no file"
            " that Python imports"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        await _extension_loaded(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        logging.exception("importing %s", file)
        title = shown(os.path.basename(os.path.dirname(file) if hasattr(module, "__path__") else file))
        raise PackImportFailed(
            f"the node pack {title} cannot be imported outside ComfyUI's process: {type(error).__name__}: {error}"
        ) from error


async def _extension_loaded(module) -> None:
    """What a pack of ComfyUI's V3 kind does before its nodes are listed."""
    entrypoint = getattr(module, "comfy_entrypoint", None)
    if entrypoint is None or getattr(module, "NODE_CLASS_MAPPINGS", None) is not None:
        return
    extension = entrypoint()
    if inspect.isawaitable(extension):
        extension = await extension
    await extension.on_load()
