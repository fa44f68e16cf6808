"""Which Python of nodes treats each condition of a guided call by itself, as data: one entry, one reason.

Conditions divided over groups of ranks are rows of different model calls. Code that is not known here, and that is not
ComfyUI's core, may weigh them against each other or keep something of one for the next, so they stay together.
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Any

from .authors import COMFY, Name, name_of
from .node_code import NodeCode

# Of comfy_extras and comfy_api, by module and innermost name.
ALONE = {
    "nodes_chroma_radiance:model_function_wrapper": "adds settings to the options of a call",
    "nodes_freelunch:output_block_patch": "scales channels and frequencies of each row",
    "nodes_hidream_o1:smoothing_wrapper": "averages shifts of each row",
    "nodes_hypernetwork:hypernetwork_patch": "layers that work token by token",
    "nodes_model_downscale:input_block_patch": "resizes each row",
    "nodes_model_downscale:output_block_patch": "resizes each row",
    "nodes_model_patch:DiffSynthCnetPatch": "adds a ControlNet of each row's tokens and the hint",
    "nodes_model_patch:UsoStyleProjectorPatch": "puts the same tokens before each row's text",
    "nodes_model_patch:WanUni3CCnetPatch": "adds a ControlNet of the latent, which conditions share",
    "nodes_model_patch:ZImageControlPatch": "adds a ControlNet of each row's tokens and the hint",
    "nodes_pag:perturbed_attention": "gives back the values of each row",
    "nodes_slg:skip": "leaves a block out",
    "torch_compile:apply_torch_compile_wrapper": "runs the model, compiled",
}
WEIGHS = "weighs conditions against each other"
TOGETHER = {
    "nodes_easycache:easycache_calc_cond_batch_wrapper": "skips the calls of all conditions by what the first one did",
    "nodes_easycache:easycache_forward_wrapper": "skips the calls of all conditions by what the first one did",
    "nodes_flux:KV_Attn_Input": "keeps keys and values of one condition for the next",
    "nodes_flux:model_input_patch": "keeps keys and values of one condition for the next",
    "nodes_hypertile:hypertile_in": "draws random numbers in each model call",
    "nodes_hypertile:hypertile_out": "draws random numbers in each model call",
    "nodes_nag:nag_attention_output_patch": WEIGHS,
    "nodes_sag:attn_and_record": "keeps the attention of the negative condition for what comes after",
    "nodes_tomesd:tomesd_m": "draws random numbers in each model call",
    "nodes_tomesd:tomesd_u": "draws random numbers in each model call",
}


@dataclass(frozen=True)
class PackCode:
    """Code of a published pack that treats conditions by themselves, while there are `most` of them at most.
    `callbacks`: what its attribute `callback` may hold, as "module:name" within the pack.
    """

    reason: str
    most: int
    callbacks: frozenset[str] = frozenset()


# By "module:name" within the pack. IPAdapter_plus, InstantID and PuLID pick keys and values for each condition by its
# number; IPAdapter_plus does so differently where three are in one call.
PACKS = {
    "CrossAttentionPatch:Attn2Replace": PackCode(
        "IPAdapter_plus, InstantID: adds each condition's own attention to the picture's tokens",
        2,
        frozenset({"CrossAttentionPatch:ipadapter_attention", "CrossAttentionPatch:instantid_attention"}),
    ),
    "pulid:Attn2Replace": PackCode(
        "PuLID: adds each condition's own attention to the face's tokens", 2, frozenset({"pulid:pulid_attention"})
    ),
}
UNKNOWN = "may look at all conditions of a model call"


def why_together(found: NodeCode, conditions: int) -> str:
    """Why `conditions` of them must be in the same model calls as without this pack, or "". The reason has a verb
    first: it follows the name of the code.
    """
    return _why(found.code, conditions)


def _why(code: Any, conditions: int) -> str:
    name = name_of(code)
    if not name.is_foreign:
        return _why_comfyuis(code, name, conditions)
    known = PACKS.get(name.name)
    if known is None or conditions > known.most:
        return UNKNOWN
    callbacks = getattr(code, "callback", ())
    return "" if all(name_of(callback).name in known.callbacks for callback in callbacks) else UNKNOWN


def _why_comfyuis(code: Any, name: Name, conditions: int) -> str:
    if name.root == COMFY or not name.is_comfyuis:
        return _why_held(code, conditions)
    entry = f"{name.module.rpartition('.')[2]}:{name.qualname.rpartition('.')[2]}"
    if entry in ALONE:
        return _why_held(code, conditions)
    return TOGETHER.get(entry, UNKNOWN)


def _why_held(code: Any, conditions: int) -> str:
    """The same for functions that a known one holds and may call (a wrapper that was there before)."""
    if isinstance(code, functools.partial):
        held = [code.func, *code.args, *code.keywords.values()]
    elif isinstance(code, types.FunctionType):
        held = [cell.cell_contents for cell in code.__closure__ or ()]
    else:
        return ""
    functions = (one for one in held if isinstance(one, types.FunctionType | types.MethodType | functools.partial))
    return next((why for one in functions if name_of(one).is_foreign and (why := _why(one, conditions))), "")
