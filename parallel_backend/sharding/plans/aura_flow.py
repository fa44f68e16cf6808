"""AuraFlow and Pony V7."""

from ..plan.argument_kinds import Tokens
from ..plan.plan import Blocks, Gather, Plan

TEXT_IMAGE = ("txt", "img")

AURA_FLOW = Plan(
    model="comfy.ldm.aura.mmdit.MMDiT",
    blocks=(
        Blocks(
            "double_layers",
            {"c": Tokens("txt"), "x": Tokens("img")},
            attention=TEXT_IMAGE,
            returns=(("txt",), ("img",)),
            once={"global_cond": ("modC", "modX")},
        ),
        Blocks(
            "single_layers",
            {"cx": Tokens(*TEXT_IMAGE)},
            attention=TEXT_IMAGE,
            returns=(TEXT_IMAGE,),
            once={"global_cond": ("modCX",)},
        ),
    ),
    gathers=(Gather("final_linear", ("img",)),),
    heads="double_layers.0.attn.n_heads",
)
