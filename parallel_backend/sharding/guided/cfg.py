"""CFG parallelism: the conditions of one guided call are evaluated by different groups of ranks.

Conditions go to the groups before ComfyUI decides what fits into one batch, so prompts of different length, areas and a
ControlNet on one side only work, and every rank ends with every result.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from ..exchange.memory_order import as_contiguous, laid_out_as
from ..foreign.own_options import InOptions
from .guided_call import conditions_stay_together, mixed_in_model
from .peers import Peers


class CfgParallel(InOptions):
    """A CALC_COND_BATCH wrapper: the conditions of a call go round the cfg groups.

    `note(line)` hears why a call is not divided; then every group evaluates all of it.
    """

    def __init__(self, peers: Peers, note):
        self._peers = peers
        self._note = note

    def __call__(self, executor, model, conds, x_in, timestep, model_options) -> list[torch.Tensor]:
        active = [index for index, cond in enumerate(conds) if cond is not None]
        if len(active) < 2:
            return executor(model, conds, x_in, timestep, model_options)
        evaluated = [conds[index] for index in active]
        why = conditions_stay_together(model.current_patcher, model_options, evaluated, x_in.shape[0])
        if why := why or mixed_in_model(model):
            self._note(f"{why}: every cfg group evaluates all conditions")
            return executor(model, conds, x_in, timestep, model_options)
        owner = {index: place % self._peers.size for place, index in enumerate(active)}
        own = [cond if owner.get(index) == self._peers.index else None for index, cond in enumerate(conds)]
        results = self._peers.all_or_none(lambda: executor(model, own, x_in, timestep, model_options))
        for index in active:
            results[index] = laid_out_as(results[index], x_in)
            dist.broadcast(as_contiguous(results[index]), self._peers.ranks[owner[index]], group=self._peers.group)
        return results
