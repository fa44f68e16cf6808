"""Which mode a model call can run in, given the patches in its transformer_options."""

from __future__ import annotations

from enum import Enum
from typing import Any

from ..plan.plan import Plan

BLOCK_REPLACEMENTS = frozenset({"dit"})
# Patches of ComfyUI that hand attention more keys than they got, by class: Flux KV Cache.
CHANGE_TOKENS = frozenset({"KV_Attn_Input"})


class Mode(Enum):
    """PERSIST: tokens stay split through the blocks. BLOCK: whole between blocks. WHOLE: not sharded."""

    PERSIST = "persist"
    BLOCK = "block"
    WHOLE = "whole"


def replaced_blocks(options: dict[str, Any]) -> str:
    """Why blocks cannot lie on different devices under these transformer_options, or ""."""
    replaced = options.get("patches_replace", {})
    if not any(replaced.get(name) for name in BLOCK_REPLACEMENTS):
        return ""
    return (
        "this workflow replaces blocks of the model (skip-layer guidance and some adapters do), and PipeFusion has"
        " each block on one device only"
    )


def mode_for(plan: Plan, options: dict[str, Any], inputs: dict[str, Any]) -> tuple[Mode, str]:
    """The mode, and for WHOLE the reason: a patch that looks inside the blocks, where tokens are split.

    inputs: what the model was called with, by name.
    """
    whole_between = not plan.persist or any(inputs.get(name) is not None for name in plan.block_inputs)
    mode = Mode.BLOCK if whole_between else Mode.PERSIST
    for name, found in options.get("patches", {}).items():
        if not found or name in plan.whole_patches:
            continue
        changing = [patch for patch in found if type(patch).__name__ in CHANGE_TOKENS]
        if changing:
            return Mode.WHOLE, f"{type(changing[0]).__name__} changes the number of tokens inside the blocks"
        if name in plan.inner_patches:
            continue
        if name not in plan.between_patches:
            return Mode.WHOLE, f"the patch {name!r} works on whole tokens inside the blocks"
        mode = Mode.BLOCK
    for name, found in options.get("patches_replace", {}).items():
        if not found:
            continue
        if name not in BLOCK_REPLACEMENTS:
            return Mode.WHOLE, f"a replaced {name!r} works on whole tokens inside the blocks"
        mode = Mode.BLOCK
    return mode, ""
