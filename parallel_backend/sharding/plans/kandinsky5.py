"""Kandinsky 5, video and image."""

from ..plan.argument_kinds import Positions, Tokens
from ..plan.plan import Blocks, Gather, Plan

KANDINSKY5 = Plan(
    model="comfy.ldm.kandinsky5.model.Kandinsky5",
    blocks=(
        Blocks(
            "visual_transformer_blocks",
            {"visual_embed": Tokens("img"), "freqs": Positions(("img",), 1)},
            attention=("img",),
            returns=(("img",),),
            local=("cross_attention",),
            once={"time_embed": ("visual_modulation",)},
        ),
    ),
    gathers=(Gather("visual_transformer_blocks.-1", ("img",)),),  # the output layer takes time, height and width apart
    heads="visual_transformer_blocks.0.self_attention.num_heads",
)
