"""Latents of several modalities, as those of LTX-2 and MiniMax H3, without the VAEs that make them."""

import comfy.nested_tensor
import torch
from comfy_api.latest import io


class NestedLatent(io.ComfyNode):
    """Zeros for a video latent and a sound latent; shapes as numbers with commas."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="NestedLatent",
            category="xDiT/test",
            inputs=[io.String.Input("video"), io.String.Input("sound")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, video, sound) -> io.NodeOutput:
        parts = [torch.zeros([int(size) for size in shape.split(",")]) for shape in (video, sound)]
        return io.NodeOutput({"samples": comfy.nested_tensor.NestedTensor(parts)})
