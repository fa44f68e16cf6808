"""Which of a model's weights a rank holds: all of them, unless a request says otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Held(Enum):
    """What a rank holds of one parameter: all of it, or nothing."""

    WHOLE = "whole"
    ABSENT = "absent"


@dataclass(frozen=True)
class Placement:
    """absent: modules of the diffusion model, by path ("double_blocks.3"), whose parameters this rank never uses.

    Parameters of modules inside are absent too.
    """

    absent: frozenset[str] = frozenset()

    def held(self, name: str) -> Held:
        """What the rank holds of the parameter `name`, as ComfyUI names it: "diffusion_model.double_blocks.3.…"."""
        return Held.ABSENT if any(path in self.absent for path in _modules_of(name)) else Held.WHOLE


REPLICATED = Placement()


def _modules_of(name: str) -> Iterator[str]:
    """The paths of the modules that a parameter lies in, the outermost first."""
    parts = name.removeprefix("diffusion_model.").split(".")
    for count in range(1, len(parts)):
        yield ".".join(parts[:count])
