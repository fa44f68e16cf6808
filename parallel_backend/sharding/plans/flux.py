"""Flux (dev, schnell, Kontext, Fill) and Flux2, which is the same class with modulation shared by all blocks."""

from ..plan.argument_kinds import Positions, Ranges, RangesBehind, Tokens
from ..plan.plan import Blocks, Gather, InnerPatch, Plan

TEXT_IMAGE = ("txt", "img")

FLUX_PATCHES = {
    "attn1_patch": InnerPatch({"q": 2, "k": 2, "v": 2}, whole={"pe": "pe"}),
    "attn1_output_patch": InnerPatch({"out": 1}),
}

FLUX = Plan(
    model="comfy.ldm.flux.model.Flux",
    blocks=(
        Blocks(
            "double_blocks",
            {
                "img": Tokens("img"),
                "txt": Tokens("txt"),
                "pe": Positions(TEXT_IMAGE, 2),
                "modulation_dims_img": Ranges(("img",)),
            },
            attention=TEXT_IMAGE,
            returns=(("img",), ("txt",)),
            once={"vec": ("img_mod", "txt_mod")},
        ),
        Blocks(
            "single_blocks",
            {"x": Tokens(*TEXT_IMAGE), "pe": Positions(TEXT_IMAGE, 2), "modulation_dims": RangesBehind("txt", "img")},
            attention=TEXT_IMAGE,
            returns=(TEXT_IMAGE,),
            once={"vec": ("modulation",)},
        ),
    ),
    gathers=(Gather("final_layer", ("img",), {"modulation_dims": Ranges(("img",))}),),
    residuals={"input": "img", "output": "img"},
    inner_patches=FLUX_PATCHES,
    stages=("double_blocks", "single_blocks"),
    once=(
        "process_img",
        "img_in",
        "comfy.ldm.flux.model:timestep_embedding",
        "time_in",
        "guidance_in",
        "vector_in",
        "txt_norm",
        "txt_in",
        "pe_embedder",
        "double_stream_modulation_img",
        "double_stream_modulation_txt",
        "single_stream_modulation",
    ),
    ring_of_two=True,
    graphs=True,
)
