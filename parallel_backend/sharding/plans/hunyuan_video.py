"""HunyuanVideo 1.0 and 1.5 and HunyuanImage 2.1: Flux's blocks, their text refined before."""

from ..plan.argument_kinds import Positions, Ranges, Tokens
from ..plan.plan import Blocks, Gather, Plan
from .flux import FLUX, FLUX_PATCHES, TEXT_IMAGE

HUNYUAN_VIDEO = Plan(
    model="comfy.ldm.hunyuan_video.model.HunyuanVideo",
    blocks=(
        FLUX.blocks[0],
        # unlike Flux, the model passes the single blocks the ranges of the image as they are, over text and image
        Blocks(
            "single_blocks",
            {"x": Tokens(*TEXT_IMAGE), "pe": Positions(TEXT_IMAGE, 2), "modulation_dims": Ranges(TEXT_IMAGE)},
            attention=TEXT_IMAGE,
            returns=(TEXT_IMAGE,),
            once=FLUX.blocks[1].once,
        ),
    ),
    gathers=(Gather("final_layer", ("img",), {"modulation_dims": Ranges(("img",))}),),
    residuals={"input": "img", "output": "img"},
    inner_patches=FLUX_PATCHES,
    block_inputs=frozenset({"ref_latent"}),  # its rows are cut off before the final layer
)
