"""Whether a plan matches the model classes of the ComfyUI at hand: found out without hooks, before degrees are chosen.

Host and ranks ask the same of the same classes, so they agree. A forward that a node put in the place of a class's own
does not count: it comes and goes.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .errors import PlanMismatch
from .modules import blocks_at, check_arguments, function_at, module_at, parameter_names
from .plan import Plan, heads_of

_known: WeakKeyDictionary[torch.nn.Module, tuple[Plan, str | None]] = WeakKeyDictionary()
_told: set[tuple[str, str]] = set()


def mismatch(model: torch.nn.Module, plan: Plan, author: str = "") -> str | None:
    """What of `plan` the model lacks (a renamed argument or module), or None. Told once in the log.

    `author`: the node pack that brought the plan, "" for a plan of this pack.
    """
    known = _known.get(model)
    if known is None or known[0] is not plan:
        _known[model] = known = plan, _first_mismatch(model, plan, author)
        found = known[1]
        if found is not None and (plan.model, found) not in _told:
            _told.add((plan.model, found))
            logging.warning(
                "xDiT: %s runs without its sharding plan, divided by cfg and batch only: %s",
                type(model).__qualname__,
                found,
            )
    return known[1]


def _first_mismatch(model: torch.nn.Module, plan: Plan, author: str) -> str | None:
    try:
        _check(model, plan)
    except PlanMismatch as error:
        return f"{error.lacks}: the plan is that of the node pack {author}; update it" if author else str(error)
    return None


def _check(model: torch.nn.Module, plan: Plan) -> None:
    for blocks in plan.blocks:
        for block in blocks_at(model, blocks.path):
            _check_module(plan, blocks.path, block, blocks.arguments, blocks.signature)
            for name in (*blocks.local, *blocks.gather_keys):
                module_at(block, name)
    for gather in plan.gathers:
        _check_module(plan, gather.path, module_at(model, gather.path), gather.arguments)
    for undivided in plan.undivided:
        path, _, inner = undivided.path.partition(".*")
        for module in blocks_at(model, path):
            module = module_at(module, inner[1:]) if inner else module
            _check_module(plan, undivided.path, module, (undivided.argument,))
    for name in (*plan.attention_globals, *(path for path in plan.once if ":" in path)):
        function_at(name)
    try:
        heads = heads_of(plan, model)
    except (AttributeError, IndexError, TypeError) as error:
        raise PlanMismatch(f"{plan.model} has no {plan.heads}, its number of heads") from error
    if not isinstance(heads, int) or heads < 1:
        raise PlanMismatch(f"{plan.heads} of {plan.model} is {heads!r:.100}, no number of heads")


def _check_module(
    plan: Plan,
    path: str,
    module: torch.nn.Module,
    arguments: Mapping[str, Any] | Iterable[str],
    signature: str = "",
) -> None:
    cls: Any = type(module)  # for mypy a class is no Hashable
    names = parameter_names(function_at(signature)) if signature else _forward_names(cls)
    check_arguments(plan.model, path, arguments, names)


@functools.cache
def _forward_names(cls: type[torch.nn.Module]) -> tuple[str, ...]:
    return parameter_names(cls.forward)[1:]
