"""Qwen-Image and Qwen-Image Edit."""

from ..plan.argument_kinds import Cut, Positions, Tokens, Whole
from ..plan.plan import Blocks, Gather, InnerPatch, Plan

TEXT_IMAGE = ("txt", "img")

QWEN_IMAGE = Plan(
    model="comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",
    blocks=(
        Blocks(
            "transformer_blocks",
            {
                "hidden_states": Tokens("img"),
                "encoder_hidden_states": Tokens("txt"),
                "encoder_hidden_states_mask": Whole(("txt",), -1),
                "image_rotary_emb": Positions(TEXT_IMAGE, 2),
                "timestep_zero_index": Cut("img"),
            },
            attention=TEXT_IMAGE,
            returns=(("txt",), ("img",)),
            mask="local",
            once={"temb": ("img_mod", "txt_mod")},
            once_unless={"timestep_zero_index": ("txt_mod",)},
        ),
    ),
    gathers=(Gather("proj_out", ("img",)),),
    heads="transformer_blocks.0.attn.heads",
    residuals={"input": "img"},
    stages=("transformer_blocks",),
    once=("process_img", "img_in", "txt_norm", "txt_in", "time_text_embed", "pe_embedder"),
    graphs=True,
    inner_patches={
        "attn1_patch": InnerPatch(
            {"q": 2, "k": 2, "v": 2}, whole={"pe": "image_rotary_emb", "attn_mask": "encoder_hidden_states_mask"}
        ),
    },
)
