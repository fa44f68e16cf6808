"""JoyImage Edit: double stream blocks, image before text, positions for the image only.

The references are cut off by a number of whole tokens right after the last block.
"""

from ..plan.argument_kinds import Positions, Tokens
from ..plan.plan import Blocks, Gather, Plan

JOYIMAGE = Plan(
    model="comfy.ldm.joyimage.model.JoyImageTransformer3DModel",
    blocks=(
        Blocks(
            "double_blocks",
            {
                "hidden_states": Tokens("img"),
                "encoder_hidden_states": Tokens("txt"),
                "image_rotary_emb": Positions(("img",), 1),
            },
            attention=("img", "txt"),
            returns=(("img",), ("txt",)),
        ),
    ),
    gathers=(Gather("double_blocks.-1", ("img",)),),
    heads="double_blocks.0.attn.num_attention_heads",
)
