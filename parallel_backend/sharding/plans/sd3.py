"""Stable Diffusion 3 and 3.5 (large, medium with a second attention over the image alone)."""

from ..plan.argument_kinds import Tokens
from ..plan.plan import Blocks, Gather, Plan

SD3 = Plan(
    model="comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",
    blocks=(
        Blocks(
            "joint_blocks",
            {"context": Tokens("txt"), "x": Tokens("img")},
            attention=("txt", "img"),
            returns=(("txt",), ("img",)),
            then=(("img",),),
            signature="comfy.ldm.modules.diffusionmodules.mmdit:_block_mixing",
            once={"c": ("context_block.adaLN_modulation", "x_block.adaLN_modulation")},
        ),
    ),
    gathers=(Gather("final_layer", ("img",)),),
    residuals={"output": "img"},
    stages=("joint_blocks",),
    once=("context_processor", "x_embedder", "t_embedder", "y_embedder", "context_embedder"),
    graphs=True,
)
