"""What blocks compute from one argument alone, computed elsewhere and given to them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from .modules import blocks_if_any, replaced
from .plan import Blocks


def once_in(blocks: Blocks, block: torch.nn.Module) -> tuple[tuple[str, torch.nn.Module], ...]:
    """Of `blocks.once`, the argument and the submodule of each in one of the blocks."""
    return tuple(
        (name, found) for name, paths in blocks.once.items() for path in paths for found in blocks_if_any(block, path)
    )


def given(module: torch.nn.Module, output: Any, known: Any) -> AbstractContextManager[None]:
    """While the context lasts, the module's forward gives `output` for its input `known`, which it knows by identity,
    and computes for any other. Its hooks run as ever. To a compiler what it gives is one more tensor from outside.
    """
    compute = module.forward

    def forward(value):
        return output if value is known else compute(value)

    return replaced(module, "forward", forward)
