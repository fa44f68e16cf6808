"""Which of a model's weights a rank holds: all of them, unless a request says otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch

from ...contract.config import REPLICATE, SHARD_OFFLOAD, Degrees
from ...sharding.pipeline.stages import own_chunks, staged_blocks
from ...sharding.plan.block_paths import block_paths
from ...sharding.plan.plan import Plan


class Held(Enum):
    """What a rank holds of one parameter: all of it, a cut of its block's bytes, or nothing."""

    WHOLE = "whole"
    CUT = "cut"
    ABSENT = "absent"


@dataclass(frozen=True)
class Placement:
    """Modules are named by their path in the diffusion model ("double_blocks.3"; "" is the model itself).

    absent: modules whose parameters this rank never uses, with all that is inside.
    divided: modules whose parameters are divided over `count` ranks, in the order in which they run; this rank holds
    cut `index` of each. offload: in host memory.
    """

    absent: frozenset[str] = frozenset()
    divided: tuple[str, ...] = ()
    index: int = 0
    count: int = 1
    offload: bool = False

    def held(self, name: str) -> Held:
        """What the rank holds of the parameter `name`, as ComfyUI names it: "diffusion_model.double_blocks.3.…"."""
        modules = list(_modules_of(name))
        if any(path in self.absent for path in modules):
            return Held.ABSENT
        return Held.CUT if any(path in self.divided for path in modules) else Held.WHOLE


REPLICATED = Placement()
NOTHING = Placement(absent=frozenset({""}))


def place(patchers: list[Any], weights: str, degrees: Degrees, rank: int) -> None:
    """Say which weights this rank holds of each model of a request; `weights` is one of config.WEIGHTS, not "auto"."""
    for patcher in patchers:
        sharded = getattr(patcher.model, "xdit_sharded", None)
        placement = REPLICATED
        if weights != REPLICATE and sharded is not None:
            offload = weights == SHARD_OFFLOAD
            placement = divided(patcher.model.diffusion_model, sharded.plan, degrees, rank, offload)
        if degrees.pipefusion > 1 and sharded is not None:
            absent = other_stages(patcher.model.diffusion_model, sharded.plan, degrees, rank)
            placement = replace(placement, absent=placement.absent | absent)
        patcher.place(placement)


def divided(model: torch.nn.Module, plan: Plan, degrees: Degrees, rank: int, offload: bool) -> Placement:
    """The blocks of a diffusion model divided over each set of ranks that share one copy; nothing for other ranks."""
    if rank >= degrees.ranks:
        return NOTHING
    return Placement(
        divided=block_paths(model, plan), index=rank % degrees.shards, count=degrees.shards, offload=offload
    )


def other_stages(model: torch.nn.Module, plan: Plan, degrees: Degrees, rank: int) -> frozenset[str]:
    """The blocks that PipeFusion gives to other stages than this rank's; all for a rank that takes no part."""
    if rank >= degrees.ranks:
        return NOTHING.absent
    blocks = staged_blocks(model, plan)
    chunks = own_chunks(blocks, degrees.pipefusion, rank // degrees.sequence % degrees.pipefusion)
    own = {index for chunk in chunks for index in chunk}
    return frozenset(block.path for index, block in enumerate(blocks) if index not in own)


def _modules_of(name: str) -> Iterator[str]:
    """The paths of the modules that a parameter lies in, the outermost first."""
    parts = name.removeprefix("diffusion_model.").split(".")
    for count in range(len(parts)):
        yield ".".join(parts[:count])
