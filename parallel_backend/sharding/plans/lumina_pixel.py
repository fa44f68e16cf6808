"""Z-Image in pixel space: Z-Image's layers, whose output an MLP per patch decodes whole on every rank."""

from dataclasses import replace

from ..plan.plan import Gather
from .lumina import LUMINA

Z_IMAGE_PIXEL_SPACE = replace(
    LUMINA,
    model="comfy.ldm.lumina.model.NextDiTPixelSpace",
    stages=(),
    graphs=False,
    gathers=(*LUMINA.gathers[:-1], Gather("layers.-1", ("all",))),
)
