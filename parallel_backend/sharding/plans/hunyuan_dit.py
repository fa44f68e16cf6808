"""HunyuanDiT: self attention over the image, cross-attention to the text, skips from early to late blocks."""

from ..plan.argument_kinds import Positions, Tokens
from ..plan.plan import Blocks, Gather, Plan

HUNYUAN_DIT = Plan(
    model="comfy.ldm.hydit.models.HunYuanDiT",
    blocks=(
        Blocks(
            "blocks",
            {"x": Tokens("img"), "freq_cis_img": Positions(("img",), 0), "skip": Tokens("img")},
            attention=("img",),
            returns=(("img",),),
            local=("attn2",),
        ),
    ),
    gathers=(Gather("final_layer", ("img",)),),
    residuals={"output": "img"},
    attention_globals=("comfy.ldm.hydit.attn_layers:optimized_attention",),
)
