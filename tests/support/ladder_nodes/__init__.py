"""Test-only nodes of a custom node pack: each gives an object that takes another rung of the ladder to the ranks."""

from comfy_api.latest import ComfyExtension

from .guiders import WeightedGuiderNode
from .latents import NestedLatent
from .models import ForgetRecipe, LockedBlockPatch, LockedFunctionWrapper
from .samplers import ChurnSampler, GlobalNoiseSampler, LockedSampler


class LadderNodes(ComfyExtension):
    async def get_node_list(self):
        return [
            WeightedGuiderNode,
            ForgetRecipe,
            LockedBlockPatch,
            LockedFunctionWrapper,
            ChurnSampler,
            GlobalNoiseSampler,
            LockedSampler,
            NestedLatent,
        ]


async def comfy_entrypoint():
    return LadderNodes()
