"""MiniMax H3: text, references, sound and video run through the blocks as one sequence of a batch of one."""

from ..plan.argument_kinds import Positions, Ranges, Rows
from ..plan.plan import Blocks, Gather, Plan

MINIMAX_H3 = Plan(
    model="comfy.ldm.minimax.model.MiniMaxH3Model",
    blocks=(
        Blocks(
            "blocks",
            {"x": Rows("all"), "mod_segments": Ranges(("all",)), "rope_freqs": Positions(("all",), 1)},
            attention=("all",),
            returns=(("all",),),
            once={"t_emb": ("adaln_proj",)},
        ),
    ),
    gathers=(Gather("blocks.-1", ("all",)),),
    heads="blocks.0.attn.heads",
)
