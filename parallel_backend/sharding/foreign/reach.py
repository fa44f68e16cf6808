"""What foreign code can see of a divided model call, and so what has to be whole for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .model_watch import ForeignCode


@dataclass(frozen=True)
class Reach:
    """`around`: code between or around the blocks; tokens are whole there. `at`, `inside`: paths of blocks that run it
    themselves, and of those of which a module inside does; each runs whole on every rank. `lines`: for the person.
    """

    around: tuple[ForeignCode, ...] = ()
    at: frozenset[str] = frozenset()
    inside: frozenset[str] = frozenset()
    lines: tuple[str, ...] = ()

    @property
    def blocks(self) -> frozenset[str]:
        return self.at | self.inside

    def __bool__(self) -> bool:
        return bool(self.lines)


def reach_of(found: tuple[ForeignCode, ...], blocks: Mapping[str, object]) -> Reach:
    """Of the foreign code in a model with blocks at these paths."""
    around: list[ForeignCode] = []
    at: set[str] = set()
    inside: set[str] = set()
    lines: dict[tuple[str, str], str] = {}
    for one in found:
        if not one.any_token:
            continue
        if one.everywhere:
            at.update(blocks)
        if one.path in blocks:
            at.add(one.path)
        outer = {path for path in blocks if one.path.startswith(f"{path}.")}
        inside |= outer
        if one.path not in blocks and not outer:
            around.append(one)
        lines.setdefault((one.by, one.what), f"{one.by} (the {one.what} of {one.path or 'the diffusion model'})")
    return Reach(tuple(around), frozenset(at), frozenset(inside), tuple(lines.values()))


def blocks_with_code(found: tuple[ForeignCode, ...], blocks: Mapping[str, object]) -> dict[str, ForeignCode]:
    """The blocks at or inside which any foreign code runs, whatever it looks at, by path."""
    return {
        path: one
        for one in found
        for path in blocks
        if one.everywhere or one.path == path or one.path.startswith(f"{path}.")
    }
