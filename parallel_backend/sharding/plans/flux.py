"""Flux (dev, schnell, Kontext, Fill, ...)."""

from ..plan import Blocks, Gather, Plan, Positions

TEXT_IMAGE = ("txt", "img")

FLUX = Plan(
    model="comfy.ldm.flux.model.Flux",
    blocks=(
        Blocks(
            "double_blocks",
            tokens={"img": ("img",), "txt": ("txt",)},
            attention=TEXT_IMAGE,
            positions={"pe": Positions(TEXT_IMAGE, 2)},
            ranges={"modulation_dims_img": ("img",)},
        ),
        Blocks(
            "single_blocks",
            tokens={"x": TEXT_IMAGE},
            attention=TEXT_IMAGE,
            positions={"pe": Positions(TEXT_IMAGE, 2)},
            ranges={"modulation_dims": TEXT_IMAGE},
        ),
    ),
    gather=Gather("final_layer", ("img",), ranges={"modulation_dims": ("img",)}),
    residuals={"input": "img", "output": "img"},
    safe_patches=frozenset({"post_input"}),
)
