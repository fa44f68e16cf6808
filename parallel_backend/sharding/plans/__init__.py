"""The plans, by architecture."""

from ..plan import Plan, class_path
from .flux import FLUX
from .hunyuan_video import HUNYUAN_VIDEO
from .lumina import LUMINA
from .qwen_image import QWEN_IMAGE
from .wan import WAN

PLANS: dict[str, Plan] = {
    plan.model: plan
    for plan in (
        FLUX,
        HUNYUAN_VIDEO,
        LUMINA,
        QWEN_IMAGE,
        WAN,
    )
}


def plan_for(diffusion_model: object) -> Plan | None:
    """The plan of exactly this class, or None: resemblance is not enough."""
    return PLANS.get(class_path(diffusion_model))
