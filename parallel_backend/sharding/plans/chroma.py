"""Chroma, which has Flux's blocks, and Chroma Radiance, whose head works on pixels."""

from dataclasses import replace

from ..plan import Gather
from .flux import FLUX

CHROMA = replace(FLUX, model="comfy.ldm.chroma.model.Chroma", gathers=(Gather("final_layer", ("img",)),), graphs=False)

CHROMA_RADIANCE = replace(
    FLUX,
    model="comfy.ldm.chroma_radiance.model.ChromaRadiance",
    stages=(),
    gathers=(Gather("single_blocks.-1", ("img",), front=("txt",)),),
    graphs=False,
)
