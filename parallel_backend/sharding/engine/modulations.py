"""Modulations divided over the ranks of a sequence: each computes those of some blocks, and all get all of them.

A block of most models makes shift, scale and gate of a vector, one row for each sample. That is as good as reading its
weights, which for all blocks of Flux are 6.5 GB, of Qwen-Image 13.6 GB in bf16; and as it does not depend on tokens,
sequence parallelism alone leaves all of it to every rank. Outputs are small (2 MB for Flux), so one gather before the
first block hands them around. What one rank computes is what any other would, so nothing changes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Hashable, Iterator
from typing import Any

import torch

from ..exchange.collectives import SequenceGroups, TokenSplit
from ..plan.modules import blocks_at
from ..plan.plan import Blocks, Plan
from .gather import gather_rows
from .precomputed import OnceModule, given, once_in

# To compute an output costs reading a row of weights, one for each channel of the input; to get it from another rank, a
# number for each row of the input. The memory of an H100 is that many times as fast as PCIe 4.0 without peer-to-peer.
MEMORY_BESIDE_LINK = 128


class DividedModulations:
    """Those that `Blocks.once` names in one model, during one model call after another.

    Submodules with parameters of the same shapes give outputs of the same shapes. Where there are fewer of them than
    ranks, each rank computes all of these itself.
    """

    def __init__(self, model: torch.nn.Module, plan: Plan):
        self._alike: dict[Hashable, list[OnceModule]] = {}
        for blocks in plan.blocks:
            for block in blocks_at(model, blocks.path):
                for one in once_in(blocks, block):
                    self._alike.setdefault(_form(one), []).append(one)
        self._seen: set[str] = set()
        self._given = contextlib.ExitStack()

    def before_block(self, blocks: Blocks, bound: dict[str, Any], sp: SequenceGroups) -> None:
        """A block is about to run with the arguments `bound`. Before the first one with an argument that modulations
        are made of they are computed for all blocks, where it has few rows; a block that gets another tensor than that
        one computes its own. Every rank of the sequence group calls this alike.
        """
        for argument in blocks.once:
            if argument in self._seen:
                continue
            self._seen.add(argument)
            value = bound.get(argument)
            if isinstance(value, torch.Tensor) and _few_rows(value):
                self._divide(argument, bound, sp)

    def end_call(self) -> None:
        """The model computes its modulations by itself again."""
        self._seen.clear()
        self._given.close()

    def _divide(self, argument: str, bound: dict[str, Any], sp: SequenceGroups) -> None:
        alike = [found for found in self._alike.values() if found[0].argument == argument and found[0].in_use(bound)]
        modules = [(number, one.module) for number, found in enumerate(alike) if len(found) >= sp.size for one in found]
        if not modules:
            return
        value, shares = bound[argument], [modules[rank :: sp.size] for rank in range(sp.size)]
        own = [module.forward(value) for _, module in shares[sp.rank]]
        # Neighbours lie on different ranks, so each rank has one of every form.
        forms = {number: output for (number, _), output in zip(shares[sp.rank], own, strict=True)}
        whole = _gather(own, forms, [[number for number, _ in share] for share in shares], sp)
        for (_, module), output in zip((pair for share in shares for pair in share), whole, strict=True):
            self._given.enter_context(given(module, output, value))


def _form(one: OnceModule) -> Hashable:
    """The same for those whose outputs have the same form."""
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in one.module.named_parameters())
    return one.argument, one.unless, type(one.module), shapes


def _few_rows(value: torch.Tensor) -> bool:
    """Whether to compute for [..., C] costs more than to hand around what was computed."""
    channels = value.shape[-1]
    return value.numel() // channels * MEMORY_BESIDE_LINK <= channels


def _gather(own: list[Any], forms: dict[int, Any], shares: list[list[int]], sp: SequenceGroups) -> list[Any]:
    """This rank's outputs → those of all ranks, one rank's after the other. `shares`: for each rank the forms of its
    outputs, as numbers in `forms`, in the same order on every rank. One collective for each dtype.
    """
    tensors = {number: list(_tensors(form)) for number, form in forms.items()}
    sent = [tensor for output in own for tensor in _tensors(output)]
    parts: dict[torch.dtype, Iterator[torch.Tensor]] = {}
    for dtype in dict.fromkeys(tensor.dtype for found in tensors.values() for tensor in found):
        sizes = {number: [one.numel() for one in found if one.dtype == dtype] for number, found in tensors.items()}
        lengths = TokenSplit(tuple(sum(sum(sizes[number]) for number in share) for share in shares))
        whole = gather_rows(torch.cat([one.flatten() for one in sent if one.dtype == dtype]), lengths, sp)
        parts[dtype] = iter(whole.split([size for share in shares for number in share for size in sizes[number]]))
    return [_refilled(forms[number], parts) for share in shares for number in share]


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """Those in an output made of tensors, sequences and dataclasses."""
    if isinstance(output, torch.Tensor):
        yield output
    for item in _items(output):
        yield from _tensors(item)


def _items(output: Any) -> tuple:
    if isinstance(output, tuple | list):
        return tuple(output)
    if dataclasses.is_dataclass(output):
        return tuple(getattr(output, field.name) for field in dataclasses.fields(output))
    return ()


def _refilled(form: Any, parts: dict[torch.dtype, Iterator[torch.Tensor]]) -> Any:
    """`form` with the next tensors of its dtypes in the place of its own."""
    if isinstance(form, torch.Tensor):
        return next(parts[form.dtype]).view(form.shape)
    items = [_refilled(item, parts) for item in _items(form)]
    if isinstance(form, tuple | list):
        return type(form)(items)
    return type(form)(*items) if dataclasses.is_dataclass(type(form)) else form
