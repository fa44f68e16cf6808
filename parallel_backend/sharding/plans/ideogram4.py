"""Ideogram 4: text and image, or the image alone without text, run through the layers as one sequence."""

from ..plan.argument_kinds import Positions, Tokens
from ..plan.plan import Blocks, Gather, Plan

IDEOGRAM4 = Plan(
    model="comfy.ldm.ideogram4.model.Ideogram4Transformer2DModel",
    blocks=(
        Blocks(
            "layers",
            {"x": Tokens("all"), "freqs_cis": Positions(("all",), 1)},
            attention=("all",),
            returns=(("all",),),
            once={"adaln_input": ("adaln_modulation",)},
        ),
    ),
    gathers=(Gather("final_layer", ("all",)),),
    heads="layers.0.attention.num_heads",
)
