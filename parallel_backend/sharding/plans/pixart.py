"""PixArt alpha and sigma: self attention over the image, cross-attention to the text."""

from ..plan.argument_kinds import Tokens
from ..plan.plan import Blocks, Gather, Plan

PIXART = Plan(
    model="comfy.ldm.pixart.pixartms.PixArtMS",
    blocks=(Blocks("blocks", {"x": Tokens("img")}, attention=("img",), returns=(("img",),), local=("cross_attn",)),),
    gathers=(Gather("final_layer", ("img",)),),
    attention_globals=("comfy.ldm.pixart.blocks:optimized_attention",),
)
