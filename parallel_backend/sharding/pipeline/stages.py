"""Which blocks each stage runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ..engine.precomputed import OnceModule, once_in
from ..plan.argument_kinds import Tokens
from ..plan.errors import ShardingError
from ..plan.modules import blocks_at
from ..plan.plan import Blocks, Plan
from .stage_cuts import best_cuts

MOST_ROUNDS = 4


@dataclass(frozen=True)
class StagedBlock:
    """A block of the pipeline. `path`: of its module, from the diffusion model. `once`: those that `blocks` names."""

    blocks: Blocks
    module: torch.nn.Module
    path: str
    once: tuple[OnceModule, ...]


def staged_blocks(model: torch.nn.Module, plan: Plan) -> list[StagedBlock]:
    """The blocks that are divided over stages, in the order in which they run."""
    kinds = {blocks.path: blocks for blocks in plan.blocks}
    return [
        StagedBlock(kinds[path], module, f"{path}.{index}", once_in(kinds[path], module))
        for path in plan.stages
        for index, module in enumerate(blocks_at(model, path))
    ]


def own_chunks(blocks: Sequence[StagedBlock], stages: int, stage: int) -> list[range]:
    """The runs of neighbouring blocks that `stage` of `stages` owns, one in each round of all stages.

    The chunks are cut so that a call ends soonest. A block's work is its weights times the tokens that meet them: one
    with a stream of its own for text and one for the image has weights for each, of which a token meets half.
    Modulations are computed for a call, not for a token.
    Raises ShardingError for more stages than blocks.
    """
    if stages > len(blocks):
        raise ShardingError(f"{stages} stages need as many blocks, this model has {len(blocks)}")
    rounds = min(MOST_ROUNDS, len(blocks) // stages)
    cuts = best_cuts(tuple(map(_work, blocks)), stages, rounds)
    return [range(first, last) for first, last in pairwise(cuts)][stage::stages]


def _work(block: StagedBlock) -> float:
    streams = sum(isinstance(argument, Tokens) for argument in block.blocks.arguments.values())
    weights = (weight.numel() for name, weight in block.module.named_parameters() if "mod" not in name.lower())
    return sum(weights) / streams
