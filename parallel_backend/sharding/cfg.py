"""CFG parallelism: the conditions of one guided call are evaluated by different groups of ranks.

Conditions go to the groups before ComfyUI decides what fits into one batch, so prompts of different length, areas and a
ControlNet on one side only work, and every rank ends with every result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class CfgGroups:
    """`peers`: this rank and the ranks of the other cfg groups that hold the same tokens, in cfg order."""

    rank: int
    size: int
    peers: dist.ProcessGroup
    peer_ranks: tuple[int, ...]


def new_cfg_groups(sequence: int, cfg: int) -> CfgGroups | None:
    """Groups for ranks 0 … cfg × sequence - 1, rank = cfg index × sequence + sequence index. Called by every rank."""
    me, mine = dist.get_rank(), None
    for index in range(sequence):
        ranks = tuple(range(index, cfg * sequence, sequence))
        group = dist.new_group(ranks)
        if me in ranks:
            mine = CfgGroups(ranks.index(me), cfg, group, ranks)
    return mine


class CfgParallel:
    """A CALC_COND_BATCH wrapper: condition i is evaluated by cfg group i modulo the degree."""

    def __init__(self, groups: CfgGroups):
        self._groups = groups

    def __call__(self, executor, model, conds, x_in, timestep, model_options) -> list[torch.Tensor]:
        active = [index for index, cond in enumerate(conds) if cond is not None]
        owner = {index: place % self._groups.size for place, index in enumerate(active)}
        if len(active) < 2:
            return executor(model, conds, x_in, timestep, model_options)
        own = [cond if owner.get(index) == self._groups.rank else None for index, cond in enumerate(conds)]
        results = executor(model, own, x_in, timestep, model_options)
        for index in active:
            results[index] = results[index].contiguous()
            dist.broadcast(results[index], self._groups.peer_ranks[owner[index]], group=self._groups.peers)
        return results
