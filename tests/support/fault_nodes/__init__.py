"""Test-only nodes that make a rank fail. Linked into a test host's custom_nodes; never registered for users."""

import torch
from comfy_api.latest import ComfyExtension, io

from .fault import KINDS, PLACES, Ballast, Fault, Slow


class FaultInRank(io.ComfyNode):
    """A MODEL that makes ranks fail: which, where, how, and how many times in all."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaultInRank",
            display_name="Fault In Rank (test only)",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("kind", options=list(KINDS)),
                io.Combo.Input("place", options=list(PLACES)),
                io.Int.Input("rank", default=1, min=-1, max=64, tooltip="-1: every rank"),
                io.Int.Input("call", default=2, min=1, max=10000, tooltip="the model call, counted from 1"),
                io.Int.Input("times", default=1, min=1, max=100, tooltip="how often each rank fails in all"),
                io.String.Input(
                    "counter", tooltip="an existing folder where the failures are counted; waits: for a file go"
                ),
                io.Int.Input(
                    "ballast", default=0, min=0, max=2**30, optional=True, tooltip="bytes more in the request"
                ),
                io.Int.Input("tensors", default=0, min=0, max=1000, optional=True, tooltip="0.2 s to send each"),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, kind, place, rank, call, times, counter, ballast=0, tensors=0) -> io.NodeOutput:
        clone = model.clone()
        clone.set_attachments("ballast", Ballast(ballast))
        clone.set_attachments("tensors", [part for _ in range(tensors) for part in (Slow(), torch.rand(2**15))])
        clone.add_wrapper_with_key("diffusion_model", "fault", Fault(kind, place, rank, call, times, counter))
        return io.NodeOutput(clone)


class FaultNodes(ComfyExtension):
    async def get_node_list(self):
        return [FaultInRank]


async def comfy_entrypoint():
    return FaultNodes()
