"""What was observed and what is proposed, as text: tables for people, and Python to paste."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from ..sharding.plan.argument_kinds import Grid, Positions, Tokens
from ..sharding.plan.plan import Blocks, Gather, Plan
from .observed import Attention, ModuleCall, Observed
from .proposal import Proposal


def described(seen: Observed) -> str:
    """The lists of blocks, what each block gets and gives, and its attention."""
    lines = []
    for path, calls in seen.lists.items():
        lines.append(f"{path}: {len(calls)} calls of blocks")
        for call, count in _alike(calls):
            lines.append(f"  {call.path}{f' and {count - 1} more alike' if count > 1 else ''}")
            lines += [f"    {name} = {_value(value)}" for name, value in call.arguments.items()]
            lines += [f"    → {_value(value)}" for value in call.outputs]
            lines += [f"    attention {line}" for line in _attention(call)]
    lines += [
        f"behind the last block: {call.path} {_value(next(iter(call.arguments.values()), None))}"
        for call in seen.after[:4]
    ]
    return "\n".join(lines)


def _alike(calls: list[ModuleCall]) -> Iterator[tuple[ModuleCall, int]]:
    """Neighbouring calls that differ in the block only: the first, and how many."""
    for _, same in groupby(calls, lambda call: (call.arguments, call.outputs, call.attention)):
        first, *others = same
        yield first, 1 + len(others)


def _attention(call: ModuleCall) -> Iterator[str]:
    for one, same in groupby(call.attention):
        yield f"{_where(one)} × {len(list(same))}: {one.heads} heads, q {one.q}, k {one.k}, v {one.v}" + (
            f", mask {one.mask}" if one.mask is not None else ""
        )


def _where(one: Attention) -> str:
    inside = f"in {one.inside}" if one.inside else "of the block itself"
    return f"{inside} by {one.function}, without transformer_options" if one.function else inside


def _value(value: Any) -> str:
    return f"({', '.join(_value(item) for item in value)})" if isinstance(value, tuple) else str(value)


def as_python(proposal: Proposal) -> str:
    """The plan as source, with what a person has to look at as comments."""
    plan = proposal.plan
    module, _, name = plan.model.rpartition(".")
    model = f'"{plan.model}"' if "/" not in module else f'f"{{{name}.__module__}}.{{{name}.__qualname__}}"'
    parts: list[Any] = [*plan.blocks, *plan.gathers]
    kinds = [kind for part in parts for kind in part.arguments.values()]
    used = sorted({"Blocks", "Gather", "Plan", *(type(kind).__name__ for kind in kinds)})
    return "\n".join(
        [
            *(f"# {note}" for note in proposal.look_at),
            f"from xdit_plans import {', '.join(used)}, register_plan",
            "",
            "PLAN = Plan(",
            f"    model={model},",
            "    blocks=(",
            *(line for blocks in plan.blocks for line in _blocks(blocks)),
            "    ),",
            f"    gathers=({''.join(f'{_gather(gather)},' for gather in plan.gathers)}),",
            *_others(plan),
            ")",
            "register_plan(PLAN)",
        ]
    )


def _blocks(blocks: Blocks) -> Iterator[str]:
    yield "        Blocks("
    yield f'            "{blocks.path}",'
    yield "            {"
    yield from (f'                "{name}": {_kind(kind)},' for name, kind in blocks.arguments.items())
    yield "            },"
    yield f"            attention={_names(blocks.attention)},"
    returns = ", ".join("None" if one is None else _names(one) for one in blocks.returns)
    yield f"            returns=({returns}{',' if len(blocks.returns) == 1 else ''}),"
    if blocks.local:
        yield f"            local={_names(blocks.local)},"
    if blocks.then:
        yield f"            then=({' '.join(f'{_names(one)},' for one in blocks.then)}),"
    yield "        ),"


def _gather(gather: Gather) -> str:
    inside = ", ".join(f'"{name}": {_kind(kind)}' for name, kind in gather.arguments.items())
    arguments = f", {{{inside}}}" if inside else ""
    return f'Gather("{gather.path}", {_names(gather.segments)}{arguments})'


def _others(plan: Plan) -> Iterator[str]:
    if plan.heads != "num_heads":
        yield f'    heads="{plan.heads}",'
    if plan.attention_globals:
        yield f"    attention_globals={_names(plan.attention_globals)},"


def _kind(kind: Any) -> str:
    name, names = type(kind).__name__, _names(kind.segments)
    if isinstance(kind, Tokens):
        return f"{name}({names[1:-1].rstrip(',')})"
    assert isinstance(kind, Grid | Positions)
    return f"{name}({names}, {kind.dim})"


def _names(names: tuple[str, ...]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"({quoted}{',' if len(names) == 1 else ''})"
