"""xDiT for ComfyUI: ComfyUI's door into the pack."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import XDiTExtension

    return XDiTExtension()
