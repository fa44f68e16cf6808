"""CogVideoX 1.0 and 1.5."""

from ..plan.argument_kinds import Positions, Tokens
from ..plan.plan import Blocks, Gather, Plan

COGVIDEO = Plan(
    model="comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel",
    blocks=(
        Blocks(
            "blocks",
            {
                "hidden_states": Tokens("img"),
                "encoder_hidden_states": Tokens("txt"),
                "image_rotary_emb": Positions(("img",), 0),
            },
            attention=("txt", "img"),
            returns=(("img",), ("txt",)),
        ),
    ),
    gathers=(Gather("proj_out", ("img",)),),
    heads="num_attention_heads",
)
