"""Krea 2: text, image and references run through the blocks as one sequence."""

from ..plan.argument_kinds import Cut, Positions, Tokens
from ..plan.plan import Blocks, Gather, InnerPatch, Plan

KREA2 = Plan(
    model="comfy.ldm.krea2.model.SingleStreamDiT",
    blocks=(
        Blocks(
            "blocks",
            {"x": Tokens("all"), "freqs": Positions(("all",), 2), "timestep_zero_index": Cut("all")},
            attention=("all",),
            returns=(("all",),),
        ),
    ),
    gathers=(Gather("last", ("all",)),),
    heads="heads",
    inner_patches={
        "attn1_patch": InnerPatch({"q": 2, "k": 2, "v": 2}, whole={"pe": "freqs"}),
        "attn1_output_patch": InnerPatch({"out": 1}),
    },
)
