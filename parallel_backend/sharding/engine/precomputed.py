"""What blocks compute from one argument alone, computed elsewhere and given to them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from ..plan.modules import blocks_if_any, replaced
from ..plan.plan import Blocks


@dataclass(frozen=True)
class OnceModule:
    """A submodule of a block that computes from its `argument` alone where none of `unless` is given."""

    argument: str
    module: torch.nn.Module
    unless: tuple[str, ...]

    def in_use(self, arguments: dict[str, Any]) -> bool:
        """Whether it does in a block that is called with these."""
        return all(arguments.get(name) is None for name in self.unless)


def once_in(blocks: Blocks, block: torch.nn.Module) -> tuple[OnceModule, ...]:
    """What `blocks.once` names in one of the blocks."""
    return tuple(
        OnceModule(argument, module, tuple(name for name, others in blocks.once_unless.items() if path in others))
        for argument, paths in blocks.once.items()
        for path in paths
        for module in blocks_if_any(block, path)
    )


def given(module: torch.nn.Module, output: Any, known: Any) -> AbstractContextManager[None]:
    """While the context lasts, the module's forward gives `output` for its input `known`, which it knows by identity,
    and computes for any other. Its hooks run as ever. To a compiler what it gives is one more tensor from outside.
    """
    compute = module.forward

    def forward(value):
        return output if value is known else compute(value)

    return replaced(module, "forward", forward)
