"""Every model case, by name."""

from . import (
    ernie,
    flux,
    hunyuan_video,
    ideogram4,
    krea2,
    lens,
    qwen_image,
    wan,
    z_image,
)

FAMILIES = (
    ernie,
    flux,
    hunyuan_video,
    ideogram4,
    krea2,
    lens,
    qwen_image,
    wan,
    z_image,
)

CASES = {case.name: case for family in FAMILIES for case in family.CASES}
