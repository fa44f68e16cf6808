"""A pack of many parts that touches all of ComfyUI's process while it is imported. Its parts need it imported first."""

import asyncio
import importlib
import threading

import execution
import folder_paths
from server import PromptServer

import nodes

assert "KSampler" in nodes.NODE_CLASS_MAPPINGS and execution.PromptQueue
assert folder_paths.get_filename_list("xdit_test_extra") == ["listed.safetensors"]
asyncio.get_running_loop()
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("a line on the standard output")

routes = PromptServer.instance.routes


@routes.get("/xdit-test/folder")
async def answer(request):
    return None


SCALES = {"small": 0.9}
parts = importlib.import_module(__name__ + ".parts.sampler")

NODE_CLASS_MAPPINGS = {"FolderPackSampler": parts.FolderPackSampler, "FolderPackPatch": parts.FolderPackPatch}
