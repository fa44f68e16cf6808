"""Cosmos 1 and Cosmos Predict2, whose blocks take time, height and width as dims of their own."""

from ..plan.argument_kinds import Grid, PerFrame, Positions, WholeGrid
from ..plan.plan import GRID, Blocks, Gather, InnerPatch, Plan

# between its blocks the model adds position embeddings of the whole grid
COSMOS = Plan(
    model="comfy.ldm.cosmos.model.GeneralDIT",
    blocks=(
        Blocks(
            "blocks",
            {"x": Grid(("img",), 0), "rope_emb_L_1_1_D": Positions(("img",), 0)},
            attention=("img",),
            returns=(("img",),),
            local=("blocks.1",),  # cross-attention, as the first part is self-attention and the third an MLP
        ),
    ),
    gathers=(),
    persist=False,
)

COSMOS_PREDICT2 = Plan(
    model="comfy.ldm.cosmos.predict2.MiniTrainDIT",
    blocks=(
        Blocks(
            "blocks",
            {
                "x_B_T_H_W_D": Grid(("img",)),
                "emb_B_T_D": PerFrame("img"),
                "rope_emb_L_1_1_D": Positions(("img",), 1),
                "adaln_lora_B_T_3D": PerFrame("img"),
                "extra_per_block_pos_emb": WholeGrid(("img",)),
            },
            attention=("img",),
            returns=(("img",),),
            local=("cross_attn",),
        ),
    ),
    gathers=(Gather("blocks.-1", ("img",)),),
    inner_patches={
        "attn1_patch": InnerPatch({"q": 1, "k": 1, "v": 1}, whole={"pe": "rope_emb_L_1_1_D"}),
        "attn2_patch": InnerPatch({"q": 1, "k": None, "v": None}, whole={"pe": "rope_emb_L_1_1_D"}),
        "mlp_patch": InnerPatch({"x": GRID}),
    },
)
