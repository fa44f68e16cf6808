"""MiniMax H3."""

import torch
from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.minimax.model

    return comfy.ldm.minimax.model.MiniMaxH3Model(
        hidden_size=256, num_layers=2, token_refiner_num_layers=1, num_attention_heads=4, attention_head_dim=64,
        ffn_hidden_size=512, text_dim=64, timestep_input_dim=64, time_embed_hidden_size=64, time_embed_dim=256,
        rope_inv_freq_len=8, **kwargs,
    )  # fmt: skip


def inputs(size=(3, 6, 10), sound=7, tokens=33, payload=None):
    def make():
        latents = [randn(1, 24, *size, seed=1), randn(1, 32, 2, sound, seed=6)]
        return (
            (latents, randn(1, seed=5).sigmoid() * 1000, randn(1, tokens, 64, seed=2)),
            {"minimax_payload": payload() if payload else {}},
        )

    return make


def keyframes():
    """The first and the last frame are given; some text tokens stand for pictures."""
    return {
        "keyframes": [{"resolved_frame_index": 0}, {"resolved_frame_index": 8}],
        "frame_count": 9,
        "cond_video_latents": [randn(1, 24, 1, 6, 10, seed=7), randn(1, 24, 1, 6, 10, seed=8)],
        "visual_cond_noise_aug": 0.9,
        "text_token_tags": (torch.arange(33) // 10 % 2)[None],
    }


def references():
    """A picture, and a video with its sound."""
    return {
        "refs": [
            {"kind": "image", "latent_h": 4, "latent_w": 6},
            {"kind": "video_audio", "latent_t": 2, "latent_h": 4, "latent_w": 4, "ref_audio_t": 3},
        ],
        "cond_video_latents": [randn(1, 24, 1, 4, 6, seed=7), randn(1, 24, 2, 4, 4, seed=8)],
        "cond_audio_latents": [randn(1, 32, 2, 3, seed=9)],
    }


CASES = [
    ModelCase("minimax-h3: plain", build, inputs(), takes_batches=False),
    ModelCase("minimax-h3: odd size", build, inputs(size=(2, 5, 7), sound=3, tokens=7)),
    ModelCase("minimax-h3: keyframes", build, inputs(payload=keyframes)),
    ModelCase("minimax-h3: references with sound", build, inputs(payload=references)),
]
