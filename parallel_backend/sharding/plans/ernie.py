"""Ernie-Image: image and text run through the layers as one sequence, by attention without transformer_options."""

from ..plan.argument_kinds import Positions, Tokens
from ..plan.plan import Blocks, Gather, Plan

ERNIE = Plan(
    model="comfy.ldm.ernie.model.ErnieImageModel",
    blocks=(
        Blocks(
            "layers",
            {"x": Tokens("all"), "rotary_pos_emb": Positions(("all",), 1)},
            attention=("all",),
            returns=(("all",),),
        ),
    ),
    gathers=(Gather("final_linear", ("all",)),),
    attention_globals=("comfy.ldm.ernie.model:optimized_attention",),
)
