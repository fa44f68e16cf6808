"""Mochi: the attention sees the first `crop_y` rows of the text, the blocks hand on all of it."""

from ..plan.argument_kinds import Positions, Tokens, Used
from ..plan.plan import Blocks, Gather, Plan

MOCHI = Plan(
    model="comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint",
    blocks=(
        Blocks(
            "blocks",
            {
                "x": Tokens("img"),
                "y": Tokens("txt", "unused"),
                "crop_y": Used("y", "txt", "unused"),
                "rope_cos": Positions(("img",), 0),
                "rope_sin": Positions(("img",), 0),
            },
            attention=("img", "txt"),
            returns=(("img",), ("txt", "unused")),
        ),
    ),
    gathers=(Gather("final_layer", ("img",)),),
)
