"""Every model case, by name."""

from . import (
    flux,
    hunyuan_video,
    qwen_image,
    wan,
    z_image,
)

FAMILIES = (
    flux,
    hunyuan_video,
    qwen_image,
    wan,
    z_image,
)

CASES = {case.name: case for family in FAMILIES for case in family.CASES}
