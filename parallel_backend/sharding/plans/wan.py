"""Wan 2.1 and 2.2: text and image to video, the 5B model with a timestep for each frame, and the side models."""

from dataclasses import replace

from ..plan.argument_kinds import PerFrame, Positions, Tokens, Whole
from ..plan.plan import Blocks, Gather, InnerPatch, Plan, Undivided

WAN_BLOCKS = Blocks(
    "blocks",
    {"x": Tokens("img"), "e": PerFrame("img"), "freqs": Positions(("img",), 1)},
    attention=("img",),
    returns=(("img",),),
    local=("cross_attn",),
)

WAN = Plan(
    model="comfy.ldm.wan.model.WanModel",
    blocks=(WAN_BLOCKS,),
    gathers=(Gather("head", ("img",), {"e": PerFrame("img")}),),
    stages=("blocks",),
    once=("rope_encode", "time_embedding", "time_projection", "text_embedding", "img_emb"),
    inner_patches={"attn1_patch": InnerPatch({"x": 1, "q": 1, "k": 1}), "attn2_patch": InnerPatch({"x": 1})},
)

# VACE and Camera have one timestep for all frames: `e` is [B, 6, C]
ONE_TIMESTEP = replace(WAN_BLOCKS, arguments={"x": Tokens("img"), "freqs": Positions(("img",), 1)})

# each run through the VACE blocks starts from the whole control video; `x` is always the video before the blocks
VACE_BLOCKS = replace(
    WAN_BLOCKS,
    path="vace_blocks.1:",
    arguments={"c": Tokens("img"), "freqs": Positions(("img",), 1)},
    returns=(("img",), ("img",)),
)
FIRST_VACE_BLOCK = replace(
    VACE_BLOCKS,
    path="vace_blocks.0",
    arguments={"c": Whole(("img",)), "x": Whole(("img",)), "freqs": Positions(("img",), 1)},
)
WAN_VACE = replace(
    WAN,
    model="comfy.ldm.wan.model.VaceWanModel",
    stages=(),
    blocks=(ONE_TIMESTEP, FIRST_VACE_BLOCK, VACE_BLOCKS),
    gathers=(Gather("head", ("img",)),),
)

WAN_CAMERA = replace(
    WAN, model="comfy.ldm.wan.model.CameraWanModel", blocks=(ONE_TIMESTEP,), gathers=(Gather("head", ("img",)),)
)

# the face of each frame is attended to by the tokens of this frame alone; so are the sounds
WAN_ANIMATE = replace(
    WAN,
    model="comfy.ldm.wan.model_animate.AnimateWanModel",
    stages=(),
    undivided=(Undivided("face_adapter.fuser_blocks", "x", ("img",)),),
)
WAN_HUMO = replace(
    WAN,
    model="comfy.ldm.wan.model.HumoWanModel",
    stages=(),
    undivided=(Undivided("blocks.*.audio_cross_attn_wrapper", "x", ("img",)),),
)
WAN_S2V = replace(
    WAN, model="comfy.ldm.wan.model.WanModel_S2V", stages=(), undivided=(Undivided("audio_injector", "x", ("img",)),)
)
WAN_DANCER = replace(
    WAN,
    model="comfy.ldm.wan.model_wandancer.WanDancerModel",
    stages=(),
    gathers=(*WAN.gathers, replace(WAN.gathers[0], path="head_global")),
    undivided=(Undivided("music_injector", "x", ("img",)),),
)

WAN_SCAIL = replace(WAN, model="comfy.ldm.wan.model.SCAILWanModel", stages=())
WAN_SCAIL2 = replace(WAN, model="comfy.ldm.wan.model.SCAIL2WanModel", stages=())

WAN_PLANS = (
    WAN,
    WAN_VACE,
    WAN_CAMERA,
    WAN_ANIMATE,
    WAN_HUMO,
    WAN_S2V,
    WAN_DANCER,
    WAN_SCAIL,
    WAN_SCAIL2,
)
