"""Nodes that compile a MODEL (ComfyUI's TorchCompileModel, those of packs): the ranks' own compiling stands for it.

What such a node compiled is the model in ComfyUI's process, which does not run; in the ranks it would be compiled once
more around the hooks that divide it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import comfy.utils
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from ...contract.config import ParallelConfig
from ...transport.pickling import uncompiled


def as_configured(guider: Any, config: ParallelConfig) -> ParallelConfig:
    """`config` with `compile` on where a node compiled the guider's MODEL, unless it is off. Takes that node's wrapper
    out of the run's options.
    """
    wrappers = guider.model_options.get("transformer_options", {}).get("wrappers", {})
    taken = wrappers.get(WrappersMP.APPLY_MODEL, {}).pop(COMPILE_KEY, None)
    patcher = guider.model_patcher
    if not taken and len(without_compiled(patcher)) == len(patcher.object_patches):
        return config
    if config.compile == "off":
        logging.info("xDiT: a node compiles this MODEL, and Parallel Config says not to: it is not compiled")
        return config
    logging.info(
        "xDiT: a node compiles this MODEL: the ranks compile it their own way, as with Parallel Config's compile"
    )
    return replace(config, compile="on")


def without_compiled(patcher: Any) -> dict[str, Any]:
    """The object patches of a MODEL without those that put a module's compiled form into its place."""
    return {
        name: value for name, value in patcher.object_patches.items() if not _is_compiled_form(patcher, name, value)
    }


def without_wrapper(wrappers: dict[str, dict[str, list]]) -> dict[str, dict[str, list]]:
    """A patcher's wrappers without that of TorchCompileModel."""
    kept = dict(wrappers)
    if COMPILE_KEY in kept.get(WrappersMP.APPLY_MODEL, {}):
        kept[WrappersMP.APPLY_MODEL] = {
            key: value for key, value in kept[WrappersMP.APPLY_MODEL].items() if key != COMPILE_KEY
        }
    return kept


def _is_compiled_form(patcher: Any, name: str, value: Any) -> bool:
    original = uncompiled(value)
    return original is not value and _same(original, comfy.utils.get_attr(patcher.model, name))


def _same(function: Any, other: Any) -> bool:
    """Bound methods are made anew with each look at them."""
    return function is other or function == other
