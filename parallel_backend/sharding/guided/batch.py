"""Batch parallelism: the rows of a latent batch are evaluated by different groups of ranks.

The sampler runs on the whole batch on every rank, so noise is drawn as on one device; at each guided call a group
evaluates its rows and the rows are gathered. Conditioning, masks and ControlNet hints are first repeated to the whole
batch, as ComfyUI does, then cut.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from comfy.utils import repeat_to_batch_size

from ..exchange.collectives import split_evenly
from ..exchange.memory_order import laid_out_as
from ..foreign.own_options import InOptions
from .guided_call import mixed_in_model, rows_stay_together
from .peers import Peers


class BatchParallel(InOptions):
    """A CALC_COND_BATCH wrapper. Rows share one timestep, as ComfyUI's samplers give it.

    `note(line)` hears why a call is not divided; then every group evaluates all rows. `around(part)`, if set, runs what
    the groups do apart from each other.
    """

    def __init__(self, peers: Peers, note, around: Callable[[Callable], Any] | None = None):
        self._peers = peers
        self._note = note
        self._around = around if around is not None else lambda part: part()
        self._controls: dict[int, tuple[Any, Any]] = {}

    def __call__(self, executor, model, conds, x_in, timestep, model_options) -> list[torch.Tensor]:
        total = x_in.shape[0]
        if total < 2:
            return executor(model, conds, x_in, timestep, model_options)
        why = rows_stay_together(model.current_patcher, model_options, conds, total)
        if why := why or mixed_in_model(model):
            self._note(f"{why}: every batch group evaluates all rows")
            return executor(model, conds, x_in, timestep, model_options)
        sizes = split_evenly(total, self._peers.size)
        start = sum(sizes[: self._peers.index])
        rows = range(start, start + sizes[self._peers.index])
        part = functools.partial(self._evaluate, executor, model, conds, x_in, timestep, model_options, rows)
        results = self._peers.all_or_none(lambda: self._around(part))
        return [laid_out_as(_gather_rows(result, sizes, self._peers), x_in) for result in results]

    def _evaluate(self, executor, model, conds, x_in, timestep, model_options, rows: range) -> list[torch.Tensor]:
        if not rows:  # still one call, as on the other ranks
            return [
                result[:0] for result in executor(model, [None] * len(conds), x_in[:1], timestep[:1], model_options)
            ]
        own = [None if cond is None else [self._cut(part, rows, x_in.shape[0]) for part in cond] for cond in conds]
        index = slice(rows.start, rows.stop)
        return executor(model, own, x_in[index], timestep[index], model_options)

    def _cut(self, cond: dict[str, Any], rows: range, total: int) -> dict[str, Any]:
        cut = dict(cond)
        cut["model_conds"] = {name: _Rows(value, rows, total) for name, value in cond["model_conds"].items()}
        if "mask" in cond:
            cut["mask"] = _cyclic_rows(cond["mask"], rows, total)
        if "control" in cond:
            cut["control"] = self._control(cond["control"], rows, total)
        return cut

    def _control(self, control: Any, rows: range, total: int) -> Any:
        """A copy of a ControlNet (and of those before it) whose hint holds this group's rows; one for the whole run."""
        if id(control) not in self._controls:
            own = copy.copy(control)
            if (hint := control.cond_hint_original) is not None:
                own.cond_hint_original = _cyclic_rows(hint, rows, total)
                extras = [repeat_to_batch_size(extra, hint.shape[0]) for extra in control.extra_concat_orig]
                own.extra_concat_orig = [_cyclic_rows(extra, rows, total) for extra in extras]
            own.cond_hint = own.extra_concat = None
            if control.previous_controlnet is not None:
                own.previous_controlnet = self._control(control.previous_controlnet, rows, total)
            self._controls[id(control)] = (control, own)
        return self._controls[id(control)][1]


class _Rows:
    """A condition of comfy.conds that gives the whole batch's rows, cut."""

    def __init__(self, whole: Any, rows: range, total: int):
        self._whole = whole
        self._rows = rows
        self._total = total

    def process_cond(self, batch_size: int, **kwargs: Any) -> Any:
        processed = self._whole.process_cond(batch_size=self._total, **kwargs)
        return processed._copy_with(self._cut(processed.cond))

    def _cut(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._cut(item) for item in value]
        if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == self._total:
            return value[self._rows.start : self._rows.stop]
        return value


def _cyclic_rows(value: torch.Tensor, rows: range, total: int) -> torch.Tensor:
    """Rows of `value` repeated to `total` rows; a single row stays."""
    own = min(value.shape[0], total)
    return value if own == 1 else value[[row % own for row in rows]]


def _gather_rows(own: torch.Tensor, sizes: tuple[int, ...], peers: Peers) -> torch.Tensor:
    parts = [own.new_empty((size, *own.shape[1:])) for size in sizes]
    for rank, part in zip(peers.ranks, parts, strict=True):
        if rank == peers.ranks[peers.index]:
            part.copy_(own)
        if part.shape[0]:
            dist.broadcast(part, rank, group=peers.group)
    return torch.cat(parts)
