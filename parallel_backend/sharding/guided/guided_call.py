"""What keeps a guided call from being divided over groups of ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..foreign.authors import name_of
from ..foreign.condition_rules import UNKNOWN, WEIGHS, why_together
from ..foreign.foreign_conditions import foreign_conditions, too_many_hints, uncut_constants
from ..foreign.model_watch import watch
from ..foreign.node_code import NodeCode, node_code
from ..plan.plan import class_path
from ..plans.unsharded import ROWS_TOGETHER


def weighs_conditions(patcher: Any, model_options: dict[str, Any], conds: list) -> str | None:
    """What on this MODEL is known to weigh one condition against another, so that dividing them never helps; None
    without it.
    """
    for found in node_code(patcher, model_options, conds):
        if why_together(found, len(conds)) == WEIGHS:
            return f"{found.place} on this MODEL {WEIGHS} ({name_of(found.code)})"
    return None


def conditions_stay_together(patcher: Any, model_options: dict[str, Any], conds: list, rows: int) -> str:
    """Why the conditions of a guided call are rows of the same model calls as on one device; "" if they may be divided.

    patcher: the ModelPatcher that is sampled; conds: the conditions that are evaluated, each a list as in
    `guider.conds`; rows: of the latent.
    """
    for found in node_code(patcher, model_options, conds):
        if why := why_together(found, len(conds)):
            return f"{found} {why}"
    return _first(foreign_conditions(conds), UNKNOWN) or _first(too_many_hints(conds, rows), "works on whole calls")


def mixed_in_model(model: Any) -> str:
    """Why the model of a guided call, as it is now, must not be called for a part of it; "" if it may be.

    model: the BaseModel in a rank. Nodes also replace methods of its modules while they sample.
    """
    diffusion_model = getattr(model, "diffusion_model", None)
    found = watch(diffusion_model).look() if diffusion_model is not None else ()
    code = next((code for code in found if code.any_token), None)
    return "" if code is None else f"{code.by}, {code.what} of {code.path or 'the model'}, {UNKNOWN}"


def rows_stay_together(patcher: Any, model_options: dict[str, Any], conds: list, rows: int) -> str:
    """Why the rows of a latent batch are those of the same model calls as on one device; "" if they may be divided.
    Arguments as of `conditions_stay_together`.
    """
    architecture = class_path(getattr(patcher.model, "diffusion_model", None))
    if architecture in ROWS_TOGETHER:
        return f"{architecture}: {ROWS_TOGETHER[architecture]}"
    found = next((code for code in node_code(patcher, model_options, conds) if not _by_row(code)), None)
    if found is not None:
        return f"{found} works on the whole batch"
    for kind in (foreign_conditions(conds), too_many_hints(conds, rows), uncut_constants(conds, rows)):
        if why := _first(kind, "works on the whole batch"):
            return why
    return ""


def _by_row(code: NodeCode) -> bool:
    """ComfyUI's own way to put a LoRA beside the layers works token by token, and what torch compiled is the model; of
    anything else it is not known.
    """
    if code.place.startswith("the object patch"):
        return name_of(code.code).root == "torch"
    return code.place.startswith(("the injection", "the weight wrapper")) and not why_together(code, 1)


def _first(found: Iterable[str], verb: str) -> str:
    first = next(iter(found), None)
    return "" if first is None else f"{first} {verb}"
