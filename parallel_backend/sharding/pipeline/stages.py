"""Which blocks each stage runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from ..arguments import Tokens
from ..errors import ShardingError
from ..modules import blocks_at
from ..plan import Blocks, Plan

MOST_ROUNDS = 4


@dataclass(frozen=True)
class StagedBlock:
    """A block of the pipeline. `path`: of its module, from the diffusion model."""

    blocks: Blocks
    module: torch.nn.Module
    path: str


def staged_blocks(model: torch.nn.Module, plan: Plan) -> list[StagedBlock]:
    """The blocks that are divided over stages, in the order in which they run."""
    kinds = {blocks.path: blocks for blocks in plan.blocks}
    return [
        StagedBlock(kinds[path], module, f"{path}.{index}")
        for path in plan.stages
        for index, module in enumerate(blocks_at(model, path))
    ]


def own_chunks(blocks: Sequence[StagedBlock], stages: int, stage: int) -> list[range]:
    """The runs of neighbouring blocks that `stage` of `stages` owns, one in each round of all stages.

    The chunks are cut so that the largest has as little to do as can be. A block's work is its weights times the tokens
    that meet them: one with a stream of its own for text and one for the image has weights for each, of which a token
    meets half. Raises ShardingError for more stages than blocks.
    """
    if stages > len(blocks):
        raise ShardingError(f"{stages} stages need as many blocks, this model has {len(blocks)}")
    rounds = min(MOST_ROUNDS, len(blocks) // stages)
    return _balanced([_work(block) for block in blocks], stages * rounds)[stage::stages]


def _work(block: StagedBlock) -> float:
    streams = sum(isinstance(argument, Tokens) for argument in block.blocks.arguments.values())
    return sum(parameter.numel() for parameter in block.module.parameters()) / streams


def _balanced(work: Sequence[float], parts: int) -> list[range]:
    """Cut `work` into `parts` neighbouring runs whose largest sum is the smallest possible."""
    sums = [0.0, *accumulate(work)]
    count = len(work)
    # best[end]: (largest sum, cuts) of work[:end] in the parts so far
    best = {end: (sums[end], (0,)) for end in range(1, count - parts + 2)}
    for part in range(2, parts + 1):
        best = {
            end: min(
                (max(best[cut][0], sums[end] - sums[cut]), (*best[cut][1], cut))
                for cut in range(part - 1, end)
                if cut in best
            )
            for end in range(part, count - parts + part + 1)
        }
    cuts = (*best[count][1], count)
    return [range(first, last) for first, last in zip(cuts, cuts[1:], strict=False)]
