"""Which blocks each stage runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from ..arguments import Tokens
from ..errors import ShardingError
from ..given import OnceModule, once_in
from ..modules import blocks_at
from ..plan import Blocks, Plan

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

    The chunks are cut so that the ranks have as much to do as each other, as far as whole blocks allow. A block's work
    is its weights times the tokens that meet them: one with a stream of its own for text and one for the image has
    weights for each, of which a token meets half. Modulations are computed for a call, not for a token.
    Raises ShardingError for more stages than blocks.
    """
    if stages > len(blocks):
        raise ShardingError(f"{stages} stages need as many blocks, this model has {len(blocks)}")
    rounds = min(MOST_ROUNDS, len(blocks) // stages)
    cuts = _balanced([_work(block) for block in blocks], stages, rounds)
    return [range(first, last) for first, last in zip(cuts, cuts[1:], strict=False)][stage::stages]


def _work(block: StagedBlock) -> float:
    streams = sum(isinstance(argument, Tokens) for argument in block.blocks.arguments.values())
    weights = (weight.numel() for name, weight in block.module.named_parameters() if "mod" not in name.lower())
    return sum(weights) / streams


def _balanced(work: Sequence[float], stages: int, rounds: int) -> list[int]:
    """Where the chunks begin and end. From even cuts on, cuts move by a block as long as the busiest rank, or else the
    largest chunk, gets less.
    """
    sums, parts, count = [0.0, *accumulate(work)], stages * rounds, len(work)

    def cost(cuts: list[int]) -> tuple[float, float]:
        chunks = [sums[last] - sums[first] for first, last in zip(cuts, cuts[1:], strict=False)]
        return max(sum(chunks[stage::stages]) for stage in range(stages)), max(chunks)

    cuts = [part * count // parts for part in range(parts + 1)]
    while True:
        moved = [
            [*cuts[:place], cuts[place] + step, *cuts[place + 1 :]]
            for place in range(1, parts)
            for step in (-1, 1)
            if cuts[place - 1] < cuts[place] + step < cuts[place + 1]
        ]
        best = min(moved, key=cost, default=cuts)
        if cost(best) >= cost(cuts):
            return cuts
        cuts = best
