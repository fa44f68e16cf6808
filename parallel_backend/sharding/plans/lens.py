"""Lens: double stream blocks, image before text, whose attention wants a mask of the length that it sees."""

from ..plan.argument_kinds import Positions, Tokens, Whole
from ..plan.plan import Blocks, Gather, Plan

IMAGE_TEXT = ("img", "txt")

LENS = Plan(
    model="comfy.ldm.lens.model.LensTransformer2DModel",
    blocks=(
        Blocks(
            "transformer_blocks",
            {
                "hidden_states": Tokens("img"),
                "encoder_hidden_states": Tokens("txt"),
                "freqs_cis": Positions(IMAGE_TEXT, 2),
                "attention_mask": Whole(IMAGE_TEXT, -1),
            },
            attention=IMAGE_TEXT,
            returns=(("txt",), ("img",)),
            mask="local",
            once={"temb": ("img_mod", "txt_mod")},
        ),
    ),
    gathers=(Gather("proj_out", ("img",)),),
    heads="transformer_blocks.0.attn.heads",
    residuals={"input": "img"},
)
