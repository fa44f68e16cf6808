"""What other node packs import as `xdit_plans`: `register_plan`, and the words of which a plan is made.

The pack puts this module under that name when it is imported, in ComfyUI's process and in the ranks. Under its own name
it is somewhere else on each machine, as ComfyUI names a pack by its path.
"""

from ..plan.argument_kinds import (
    CompressedFrames,
    Cut,
    FirstTokens,
    Grid,
    GuideMask,
    PerFrame,
    Positions,
    Ranges,
    RangesBehind,
    Rows,
    Tokens,
    Used,
    Whole,
    WholeGrid,
)
from ..plan.plan import GRID, Blocks, Gather, InnerPatch, Plan, Undivided
from . import register_plan

NAME = "xdit_plans"

__all__ = [
    "GRID",
    "Blocks",
    "CompressedFrames",
    "Cut",
    "FirstTokens",
    "Gather",
    "Grid",
    "GuideMask",
    "InnerPatch",
    "PerFrame",
    "Plan",
    "Positions",
    "Ranges",
    "RangesBehind",
    "Rows",
    "Tokens",
    "Undivided",
    "Used",
    "Whole",
    "WholeGrid",
    "register_plan",
]
