"""Every model case, by name."""

from . import (
    boogu,
    ernie,
    flux,
    hunyuan_video,
    ideogram4,
    joyimage,
    krea2,
    lens,
    mage_flow,
    pixeldit,
    qwen_image,
    wan,
    z_image,
    z_image_pixel,
)

FAMILIES = (
    boogu,
    ernie,
    flux,
    hunyuan_video,
    ideogram4,
    joyimage,
    krea2,
    lens,
    mage_flow,
    pixeldit,
    qwen_image,
    wan,
    z_image,
    z_image_pixel,
)

CASES = {case.name: case for family in FAMILIES for case in family.CASES}
