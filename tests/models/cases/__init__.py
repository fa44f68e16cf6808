"""Every model case, by name."""

from . import flux, qwen_image, wan, z_image

CASES = {case.name: case for family in (flux, qwen_image, wan, z_image) for case in family.CASES}
