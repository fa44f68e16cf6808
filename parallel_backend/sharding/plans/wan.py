"""Wan 2.1 and 2.2: text to video, image to video, the 5B model with a timestep for each frame."""

from ..arguments import PerFrame, Positions, Tokens
from ..plan import Blocks, Gather, Plan

WAN_BLOCKS = Blocks(
    "blocks",
    {"x": Tokens("img"), "e": PerFrame("img"), "freqs": Positions(("img",), 1)},
    attention=("img",),
    returns=(("img",),),
    local=("cross_attn",),
)

WAN = Plan(
    model="comfy.ldm.wan.model.WanModel",
    blocks=(WAN_BLOCKS,),
    gathers=(Gather("head", ("img",), {"e": PerFrame("img")}),),
)
