"""The plans, by architecture."""

from ..plan import Plan, class_path
from .ernie import ERNIE
from .flux import FLUX
from .hunyuan_video import HUNYUAN_VIDEO
from .ideogram4 import IDEOGRAM4
from .krea2 import KREA2
from .lens import LENS
from .lumina import LUMINA
from .qwen_image import QWEN_IMAGE
from .wan import WAN

PLANS: dict[str, Plan] = {
    plan.model: plan
    for plan in (
        ERNIE,
        FLUX,
        HUNYUAN_VIDEO,
        IDEOGRAM4,
        KREA2,
        LENS,
        LUMINA,
        QWEN_IMAGE,
        WAN,
    )
}


def plan_for(diffusion_model: object) -> Plan | None:
    """The plan of exactly this class, or None: resemblance is not enough."""
    return PLANS.get(class_path(diffusion_model))
