"""xDiT for ComfyUI: ComfyUI's door into the pack, and that of other node packs (`import xdit_plans`)."""

import sys

WEB_DIRECTORY = "./web"

if __package__:  # pytest imports this file by itself, too
    from .parallel_backend.sharding.plans import for_packs

    sys.modules[for_packs.NAME] = for_packs


async def comfy_entrypoint():
    from .nodes import XDiTExtension

    return XDiTExtension()
