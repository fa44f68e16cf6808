"""Every model case, by name."""

from . import (
    boogu,
    cogvideo,
    cosmos,
    ernie,
    flux,
    hunyuan_video,
    ideogram4,
    joyimage,
    kandinsky5,
    krea2,
    lens,
    ltxv,
    mage_flow,
    mochi,
    pixeldit,
    qwen_image,
    wan,
    wan_side,
    z_image,
    z_image_pixel,
)

FAMILIES = (
    boogu,
    cogvideo,
    cosmos,
    ernie,
    flux,
    hunyuan_video,
    ideogram4,
    joyimage,
    kandinsky5,
    krea2,
    lens,
    ltxv,
    mage_flow,
    mochi,
    pixeldit,
    qwen_image,
    wan,
    wan_side,
    z_image,
    z_image_pixel,
)

CASES = {case.name: case for family in FAMILIES for case in family.CASES}
