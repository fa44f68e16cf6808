"""Where a plan's blocks lie in a model."""

from __future__ import annotations

import torch

from .modules import blocks_at
from .plan import Plan


def hooked_blocks(model: torch.nn.Module, plan: Plan) -> dict[str, torch.nn.Module]:
    """All modules that the plan's blocks mean, by path."""
    path_of = {id(module): path for path, module in model.named_modules()}
    blocks = (block for blocks in plan.blocks for block in blocks_at(model, blocks.path))
    return {path_of[id(block)]: block for block in blocks}


def block_paths(model: torch.nn.Module, plan: Plan) -> tuple[str, ...]:
    """The paths of the plan's blocks that have parameters; of one inside another only the outer one."""
    paths = [path for path, block in hooked_blocks(model, plan).items() if any(True for _ in block.parameters())]
    return tuple(path for path in paths if not any(path.startswith(f"{outer}.") for outer in paths))
