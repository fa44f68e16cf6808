"""Whether a plan is one: the words of `plan.py`, put together so that the engine can follow them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from .argument_kinds import (
    Argument,
    CompressedFrames,
    Cut,
    Grid,
    GuideMask,
    PerFrame,
    RangesBehind,
    Tokens,
    Used,
)
from .plan import Blocks, Gather, Plan, Undivided

MASKS = ("whole", "local")
KINDS = frozenset(kind for top in get_args(Argument) for kind in (top, *top.__subclasses__()))


def check_plan(plan: Any) -> None:
    """Raises TypeError for what is no Plan or holds something of another type than Plan and its parts say, ValueError
    for segments that no argument holds, stages that are no blocks and the like. The message names the field.
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"a plan is an xdit_plans.Plan, not a {type(plan).__qualname__}: {plan!r:.100}")
    if not isinstance(plan.model, str) or not all(plan.model.rpartition(".")[::2]):
        raise TypeError(f"Plan.model is the class as 'module.qualified_name', not {plan.model!r}")
    _Check(plan).run()


class _Check:
    def __init__(self, plan: Plan):
        self._plan = plan
        self._known: set[str] = set()

    def run(self) -> None:
        plan = self._plan
        self._parts("blocks", plan.blocks, Blocks)
        self._parts("gathers", plan.gathers, Gather)
        self._parts("undivided", plan.undivided, Undivided)
        if not plan.blocks:
            self._wrong(ValueError, "blocks: none; a plan names the model's lists of blocks")
        if not plan.gathers and plan.persist:
            self._wrong(ValueError, "gathers: none; name the module behind the last block that works token by token")
        for blocks in plan.blocks:
            self._kinds(blocks.path, blocks.arguments)
            held = [kind for kind in blocks.arguments.values() if isinstance(kind, Tokens | Grid | Used)]
            self._known.update(name for kind in held for name in _segments_of(kind))
        for blocks in plan.blocks:
            self._arguments(blocks.path, blocks.arguments)
            self._blocks(blocks)
        for gather in plan.gathers:
            self._kinds(gather.path, gather.arguments)
            self._arguments(gather.path, gather.arguments)
            self._segments(f"{gather.path}: segments", gather.segments)
            self._segments(f"{gather.path}: front", gather.front, empty=True)
        for undivided in plan.undivided:
            self._segments(f"{undivided.path}: segments", undivided.segments)
        for output, segment in plan.residuals.items():
            self._segments(f"residuals[{output!r}]", (segment,))
        if unknown := [path for path in plan.stages if path not in [blocks.path for blocks in plan.blocks]]:
            self._wrong(ValueError, f"stages: {', '.join(unknown)} is not the path of blocks")

    def _parts(self, field: str, parts: Any, kind: type) -> None:
        if not isinstance(parts, tuple) or not all(isinstance(part, kind) for part in parts):
            self._wrong(TypeError, f"{field}: a tuple of {kind.__name__}, not {parts!r:.100}")

    def _kinds(self, path: str, arguments: Any) -> None:
        if not isinstance(arguments, Mapping):
            self._wrong(TypeError, f"{path}: arguments is a dict of argument → kind, not {arguments!r:.100}")
        for name, kind in arguments.items():
            if type(kind) not in KINDS:
                known = ", ".join(sorted(one.__name__ for one in KINDS))
                self._wrong(TypeError, f"{path}: {name} is {kind!r:.100}; the kinds of arguments are {known}")
            self._names(f"{path}: {name}", _segments_of(kind))

    def _arguments(self, path: str, arguments: Mapping[str, Any]) -> None:
        for name, kind in arguments.items():
            self._segments(f"{path}: {name}", _segments_of(kind))

    def _blocks(self, blocks: Blocks) -> None:
        self._segments(f"{blocks.path}: attention", blocks.attention)
        if not isinstance(blocks.returns, tuple):
            self._wrong(TypeError, f"{blocks.path}: returns is a tuple with one entry for each output")
        for segments in (*blocks.returns, *blocks.then):
            if segments is not None:
                self._segments(f"{blocks.path}: {'returns' if segments in blocks.returns else 'then'}", segments)
        if blocks.mask not in MASKS:
            self._wrong(ValueError, f"{blocks.path}: mask is one of {', '.join(MASKS)}, not {blocks.mask!r}")

    def _segments(self, where: str, segments: Any, empty: bool = False) -> None:
        self._names(where, segments)
        if unknown := [name for name in segments if name not in self._known]:
            self._wrong(ValueError, f"{where}: no argument of a block holds {', '.join(unknown)}")
        if not segments and not empty:
            self._wrong(ValueError, f"{where}: at least one segment")

    def _names(self, where: str, segments: Any) -> None:
        """A text in the place of a tuple of one would be read letter by letter."""
        if not isinstance(segments, tuple) or not all(isinstance(name, str) for name in segments):
            self._wrong(TypeError, f"{where}: segments are a tuple of names as ('img',), not {segments!r}")

    def _wrong(self, error: type[Exception], text: str) -> None:
        raise error(f"the plan of {self._plan.model} is wrong: {text}")


def _segments_of(kind: Any) -> tuple[str, ...]:
    match kind:
        case Used():
            return (kind.segment, kind.rest)
        case RangesBehind():
            return (kind.first, kind.segment)
        case PerFrame() | CompressedFrames() | Cut() | GuideMask():
            return (kind.segment,)
    return kind.segments
