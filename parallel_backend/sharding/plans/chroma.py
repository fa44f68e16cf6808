"""Chroma, which has Flux's blocks, and Chroma Radiance, whose head works on pixels."""

from dataclasses import replace

from ..plan.plan import Gather
from .flux import FLUX

CHROMA = replace(
    FLUX,
    model="comfy.ldm.chroma.model.Chroma",
    gathers=(Gather("final_layer", ("img",)),),
    once=(
        "img_in",
        "comfy.ldm.chroma.model:timestep_embedding",
        "distilled_guidance_layer",
        "txt_in",
        "pe_embedder",
    ),
)

CHROMA_RADIANCE = replace(
    FLUX,
    model="comfy.ldm.chroma_radiance.model.ChromaRadiance",
    stages=(),
    gathers=(Gather("single_blocks.-1", ("img",), front=("txt",)),),
    graphs=False,
)
