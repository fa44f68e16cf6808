"""Test-only: a ComfyUI that starts itself anew in place, as its managers make it. Never registered for users."""

import os
import sys
import threading

from comfy_api.latest import ComfyExtension, io


class RestartInPlace(io.ComfyNode):
    """A moment after this node, ComfyUI's process runs ComfyUI from its beginning."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RestartInPlace",
            display_name="Restart In Place (test only)",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        threading.Timer(1, os.execv, (sys.executable, [sys.executable, *sys.argv])).start()
        return io.NodeOutput()


class RestartNodes(ComfyExtension):
    async def get_node_list(self):
        return [RestartInPlace]


async def comfy_entrypoint():
    return RestartNodes()
