"""What keeps a guided call from being divided over groups of ranks."""

from __future__ import annotations

from typing import Any

from comfy.patcher_extension import WrappersMP

OURS = "xdit"
# Wrappers that see one group's share only and may decide by it (step caches compare what they see).
SEES_THE_SHARE = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
# Patches that weigh one condition's attention against another's (NAG): both must be rows of one model call.
BETWEEN_CONDITIONS = ("attn1_output_patch", "attn2_output_patch")


class CannotSplit(Exception):
    """This guided call must be evaluated whole; the message says what needs it."""


def refuse_foreign_wrappers(model_options: dict[str, Any]) -> None:
    """Raises CannotSplit when a wrapper of the graph would see a share of the call."""
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {})
    for kind in SEES_THE_SHARE:
        for key, found in wrappers.get(kind, {}).items():
            if found and key != OURS:
                raise CannotSplit(f"{getattr(found[0], '__name__', key)} works on whole model calls")


def patch_between_conditions(model_options: dict[str, Any]) -> str | None:
    """The name of a patch that needs all conditions in one model call, or None."""
    patches = model_options.get("transformer_options", {}).get("patches", {})
    return next((name for name in BETWEEN_CONDITIONS if patches.get(name)), None)


def refuse_patches_between_conditions(model_options: dict[str, Any]) -> None:
    """Raises CannotSplit when there is one."""
    name = patch_between_conditions(model_options)
    if name is not None:
        raise CannotSplit(f"the patch {name!r} may weigh conditions against each other")


def refuse_patches(model_options: dict[str, Any]) -> None:
    """Raises CannotSplit when a patch may tell rows of the batch apart."""
    options = model_options.get("transformer_options", {})
    for kind in ("patches", "patches_replace"):
        for name, found in options.get(kind, {}).items():
            if found:
                raise CannotSplit(f"the patch {name!r} works on the whole batch")
    if "model_function_wrapper" in model_options:
        raise CannotSplit("the model function wrapper works on the whole batch")
