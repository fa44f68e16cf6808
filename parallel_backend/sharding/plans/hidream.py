"""HiDream-I1 and E1. Between blocks it appends each block's own text and cuts it off again: block mode only."""

from ..plan.argument_kinds import Positions, Tokens
from ..plan.plan import Blocks, Plan

IMAGE_TEXT = ("img", "txt")

HIDREAM = Plan(
    model="comfy.ldm.hidream.model.HiDreamImageTransformer2DModel",
    blocks=(
        Blocks(
            "double_stream_blocks",
            {"image_tokens": Tokens("img"), "text_tokens": Tokens("txt"), "rope": Positions(IMAGE_TEXT, 1)},
            attention=IMAGE_TEXT,
            returns=(("img",), ("txt",)),
        ),
        Blocks(
            "single_stream_blocks",
            {"image_tokens": Tokens("all"), "rope": Positions(("all",), 1)},
            attention=("all",),
            returns=(("all",),),
        ),
    ),
    gathers=(),
    heads="num_attention_heads",
    persist=False,
)
