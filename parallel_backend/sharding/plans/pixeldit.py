"""PixelDiT and PiD: the blocks over patches are sharded; the two over pixels run whole on every rank.

PiD adds features of the low-resolution latent to whole tokens between the blocks: block mode only.
"""

from dataclasses import replace

from ..plan.argument_kinds import Positions, Tokens
from ..plan.plan import Blocks, Gather, Plan

PIXELDIT = Plan(
    model="comfy.ldm.pixeldit.model.PixDiT_T2I",
    blocks=(
        Blocks(
            "patch_blocks",
            {
                "x": Tokens("img"),
                "y": Tokens("txt"),
                "pos_img": Positions(("img",), 0),
                "pos_txt": Positions(("txt",), 0),
            },
            attention=("txt", "img"),
            returns=(("img",), ("txt",)),
            once={"c": ("adaLN_modulation_img", "adaLN_modulation_txt")},
        ),
    ),
    gathers=(Gather("patch_blocks.-1", ("img",)),),
    heads="num_groups",
)

PID = replace(PIXELDIT, model="comfy.ldm.pixeldit.pid.PidNet", gathers=(), persist=False)
