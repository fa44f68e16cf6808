"""Ranks that share blocks, but not the model calls: before each block they agree which one all of them gather.

Divided over cfg or batch groups, a block is whole only where every rank of these gathers it, while each runs the model
for conditions or images of its own: once, several times (areas, prompts that share no batch), or not at all. How often
is known only when ComfyUI has done it. So every rank says which block it has come to, and all gather the first of these
in the model's order: who waits for another one waits on, so the rank that is behind catches up. A rank with nothing
more to run goes on gathering what others need until none has anything left.

Why the padding is gathers and not whole model calls: those would need inputs where a rank has none of its own, memory
for activations and time, for nothing. Why the ranks agree for each block and not for each model call: calls do not all
run the same blocks. Refiners run for a reference image that only one condition has; step caches and patches skip what
they can. To agree costs four bytes through the host's memory, beside the gather of a whole block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ...contract.config import Degrees
from ...sharding.foreign.own_options import InOptions
from ...sharding.guided.peers import PeerFailed
from .flat_block import Unit
from .sharded_blocks import DividedBlocks

FAILED = -1

Result = TypeVar("Result")


class LockStep(InOptions):
    """A CALC_COND_BATCH wrapper around what one rank evaluates of a guided call, inside those that divide the call.

    `group`: all ranks that share `divided`, the blocks of each model of the request, in the same order on every rank.
    Beside guided calls all ranks run the same model calls, and nothing is agreed. Inside nothing may wait for a rank in
    any other way. Raises PeerFailed inside a model call when another rank raised in its own.
    """

    def __init__(self, group: dist.ProcessGroup, divided: list[DividedBlocks]):
        self._group = group
        self._turns = [(blocks, unit) for blocks in divided for unit in blocks.units]
        self._number = {unit: number for number, (_, unit) in enumerate(self._turns)}
        self._inside = False
        self._failed = False

    def __call__(self, executor, *guided_call: Any) -> list[torch.Tensor]:
        return self.around(lambda: executor(*guided_call))

    def around(self, part: Callable[[], Result]) -> Result:
        """`part()`, once every rank is done with its own. Every rank calls this equally often, also one inside another.

        Raises what `part` raised here, PeerFailed when it raised elsewhere.
        """
        outer, self._inside = self._inside, True
        try:
            result = part()
            self._take_turns(until=len(self._turns))
        except BaseException:
            if not self._failed:
                self._agree(FAILED)
            raise
        finally:
            self._inside = outer
            self._failed = self._failed and outer
        return result

    def wait_for(self, unit: Unit) -> None:
        """Until every rank is about to gather `unit`."""
        if self._inside:
            self._take_turns(until=self._number[unit])

    def _take_turns(self, until: int) -> None:
        """Gather what others are about to run, up to this rank's own unit, or until no rank has one left."""
        while (number := self._agree(until)) != until:
            blocks, unit = self._turns[number]
            blocks.gather(unit)

    def _agree(self, number: int) -> int:
        """The lowest of all ranks' numbers. Raises PeerFailed when another rank failed, now or before."""
        if self._failed:
            raise PeerFailed
        lowest = torch.tensor([number], dtype=torch.int32)
        self._failed = True  # also if this raises: no other agreement would come about
        dist.all_reduce(lowest, op=dist.ReduceOp.MIN, group=self._group)
        self._failed = lowest.item() == FAILED
        if self._failed and number != FAILED:
            raise PeerFailed
        return int(lowest.item())


@contextlib.contextmanager
def in_lock_step(patchers: list[Any], active: dist.ProcessGroup | None, degrees: Degrees) -> Iterator[LockStep | None]:
    """The LockStep of a request whose weights are divided over cfg or batch groups, None for others.

    `active`: the group of all ranks that take part in it.
    """
    models = {id(patcher.model): patcher.model for patcher in patchers}
    divided = [model.xdit_weights.blocks for model in models.values() if model.xdit_weights.divided]
    if not divided or degrees.sequence > 1:
        yield None
        return
    assert active is not None, "one rank alone divides nothing"
    lock_step = LockStep(active, divided)
    for blocks in divided:
        blocks.wait_for = lock_step.wait_for
    try:
        yield lock_step
    finally:
        for blocks in divided:
            blocks.wait_for = None
