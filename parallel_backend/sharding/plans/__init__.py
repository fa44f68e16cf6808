"""The plans, by architecture."""

import sys
from typing import Any

from ..plan.plan import Plan, class_path
from ..plan.plan_matching import mismatch
from .anima import ANIMA
from .aura_flow import AURA_FLOW
from .boogu import BOOGU
from .chroma import CHROMA, CHROMA_RADIANCE
from .cogvideo import COGVIDEO
from .cosmos import COSMOS, COSMOS_PREDICT2
from .ernie import ERNIE
from .flux import FLUX
from .hidream import HIDREAM
from .hunyuan_dit import HUNYUAN_DIT
from .hunyuan_video import HUNYUAN_VIDEO
from .ideogram4 import IDEOGRAM4
from .joyimage import JOYIMAGE
from .kandinsky5 import KANDINSKY5
from .krea2 import KREA2
from .lens import LENS
from .ltxv import LTXAV, LTXV
from .lumina import LUMINA
from .lumina_pixel import Z_IMAGE_PIXEL_SPACE
from .mage_flow import MAGE_FLOW
from .minimax import MINIMAX_H3
from .mochi import MOCHI
from .omnigen2 import OMNIGEN2
from .pixart import PIXART
from .pixeldit import PID, PIXELDIT
from .qwen_image import QWEN_IMAGE
from .registry import PackPlan, Registry, pack_title
from .sd3 import SD3
from .wan import WAN_PLANS

PLANS: dict[str, Plan] = {
    plan.model: plan
    for plan in (
        ANIMA,
        AURA_FLOW,
        BOOGU,
        CHROMA,
        CHROMA_RADIANCE,
        COGVIDEO,
        COSMOS,
        COSMOS_PREDICT2,
        ERNIE,
        FLUX,
        HIDREAM,
        HUNYUAN_DIT,
        HUNYUAN_VIDEO,
        IDEOGRAM4,
        JOYIMAGE,
        KANDINSKY5,
        KREA2,
        LENS,
        LTXAV,
        LTXV,
        LUMINA,
        MAGE_FLOW,
        MINIMAX_H3,
        MOCHI,
        OMNIGEN2,
        PID,
        PIXART,
        PIXELDIT,
        QWEN_IMAGE,
        SD3,
        *WAN_PLANS,
        Z_IMAGE_PIXEL_SPACE,
    )
}


_of_packs = Registry(PLANS)


def register_plan(plan: Plan) -> None:
    """Have the models of a class divided by tokens as `plan` says. For other node packs, which import it from
    `xdit_plans`; see docs/custom-nodes.md.

    plan: of exactly one class, which has no other plan; a model that it does not match is sampled without it, with one
    line in the console. The same plan may be registered again.

    It counts from the next prompt on. Call it in ComfyUI's process; in the ranks a call has no effect, they are told.

    Raises TypeError for what is no plan, ValueError for one that contradicts itself and where its class has another
    plan, naming whose.
    """
    _of_packs.add(plan, pack_title(sys._getframe(1).f_globals.get("__name__", "?")))


def plans_of_packs() -> tuple[PackPlan, ...]:
    """What was registered in this process."""
    return _of_packs.all()


def follow_plans(plans: tuple[PackPlan, ...]) -> frozenset[str]:
    """In a rank: what is registered in ComfyUI's process is what is registered here. Returns the classes whose plan
    that changes.
    """
    return _of_packs.follow(plans)


def plan_for(diffusion_model: Any) -> Plan | None:
    """The plan of exactly this class (resemblance is not enough), or None; also where the ComfyUI at hand has a
    class of this name that the plan does not match.
    """
    plan, pack = _plan_and_pack(diffusion_model)
    return plan if plan is not None and mismatch(diffusion_model, plan, pack) is None else None


def without_plan(diffusion_model: Any) -> str:
    """Why there is no plan for a model, as the rest of a sentence about its class."""
    plan, pack = _plan_and_pack(diffusion_model)
    if plan is None:
        return "has no sharding plan"
    return f"does not match its sharding plan ({mismatch(diffusion_model, plan, pack)})"


def _plan_and_pack(diffusion_model: Any) -> tuple[Plan | None, str]:
    """The plan of its class, and the node pack that registered it, "" for one of ours."""
    name = class_path(diffusion_model)
    if name in PLANS:
        return PLANS[name], ""
    known = _of_packs.get(name)
    return (known.plan, known.pack) if known is not None else (None, "")
