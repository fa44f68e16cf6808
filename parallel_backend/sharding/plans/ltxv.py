"""LTX-Video: timesteps for all tokens or each one, guide frames behind the video, weighted by a mask."""

from ..arguments import GuideMask, Positions, Tokens
from ..plan import Blocks, Gather, Plan

LTXV = Plan(
    model="comfy.ldm.lightricks.model.LTXVModel",
    blocks=(
        Blocks(
            "transformer_blocks",
            {
                "x": Tokens("img"),
                "timestep": Positions(("img",), 1),
                "pe": Positions(("img",), 1),
                "self_attention_mask": GuideMask("img"),
            },
            attention=("img",),
            returns=(("img",),),
            local=("attn2",),
        ),
    ),
    gathers=(Gather("transformer_blocks.-1", ("img",)),),
    heads="num_attention_heads",
)
