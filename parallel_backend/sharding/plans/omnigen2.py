"""OmniGen2: noise and reference images are refined apart, then run through the layers with the text as one sequence."""

from ..plan.argument_kinds import Positions, Tokens
from ..plan.plan import Blocks, Gather, Plan


def _layers(path: str, segment: str) -> Blocks:
    return Blocks(
        path,
        {"hidden_states": Tokens(segment), "image_rotary_emb": Positions((segment,), 1)},
        attention=(segment,),
        returns=((segment,),),
    )


OMNIGEN2 = Plan(
    model="comfy.ldm.omnigen.omnigen2.OmniGen2Transformer2DModel",
    blocks=(_layers("noise_refiner", "img"), _layers("ref_image_refiner", "ref"), _layers("layers", "all")),
    gathers=(
        Gather("noise_refiner.-1", ("img",)),
        Gather("ref_image_refiner.-1", ("ref",)),
        Gather("norm_out", ("all",)),
    ),
    heads="layers.0.attn.heads",
)
