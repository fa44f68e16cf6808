"""LTX-Video and LTX-2: timesteps for all tokens or each one, guide frames behind the video, weighted by a mask."""

from ..plan.argument_kinds import CompressedFrames, FirstTokens, GuideMask, Positions, Tokens
from ..plan.plan import Blocks, Gather, Plan

LTXV = Plan(
    model="comfy.ldm.lightricks.model.LTXVModel",
    blocks=(
        Blocks(
            "transformer_blocks",
            {
                "x": Tokens("img"),
                "timestep": Positions(("img",), 1),
                "pe": Positions(("img",), 1),
                "self_attention_mask": GuideMask("img"),
            },
            attention=("img",),
            returns=(("img",),),
            local=("attn2",),
        ),
    ),
    gathers=(Gather("transformer_blocks.-1", ("img",)),),
    heads="num_attention_heads",
)

# the video is split; the sound is short, and every rank has all of it
LTXAV = Plan(
    model="comfy.ldm.lightricks.av_model.LTXAVModel",
    blocks=(
        Blocks(
            "transformer_blocks",
            {
                "x": FirstTokens("img"),
                "v_timestep": CompressedFrames("img"),
                "v_pe": Positions(("img",), 1),
                "v_cross_pe": Positions(("img",), 1),
                "v_cross_scale_shift_timestep": CompressedFrames("img"),
                "v_cross_gate_timestep": CompressedFrames("img"),
                "self_attention_mask": GuideMask("img"),
            },
            attention=("img",),
            returns=(("img",), None),
            local=("attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn"),
            local_queries=("audio_attn1", "audio_attn2"),
            gather_keys=("video_to_audio_attn",),
        ),
    ),
    gathers=(Gather("transformer_blocks.-1", ("img",)),),
    heads="num_attention_heads",
)
