"""MiniMax H3."""

import inspect

import torch
from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.minimax.model

    return comfy.ldm.minimax.model.MiniMaxH3Model(
        hidden_size=256, num_layers=2, token_refiner_num_layers=1, num_attention_heads=4, attention_head_dim=64,
        ffn_hidden_size=512, text_dim=64, timestep_input_dim=64, time_embed_hidden_size=64, time_embed_dim=256,
        rope_inv_freq_len=8, **kwargs,
    )  # fmt: skip


def takes_masks() -> bool:
    """Whether the model knows rows that are sampled in part, as from ComfyUI 0.31 on."""
    import comfy.ldm.minimax.model

    return "denoise_mask" in inspect.signature(comfy.ldm.minimax.model.MiniMaxH3Model.forward).parameters


def inputs(size=(3, 6, 10), sound=7, tokens=33, payload=None, masked=False):
    def make():
        latents = [randn(1, 24, *size, seed=1), randn(1, 32, 2, sound, seed=6)]
        options = {"minimax_payload": payload() if payload else {}}
        if masked:  # every row at a strength of its own
            options["denoise_mask"] = randn(1, 1, *size, seed=10).sigmoid()
            options["audio_denoise_mask"] = randn(1, 1, 2, sound, seed=11).sigmoid()
        return (latents, randn(1, seed=5).sigmoid() * 1000, randn(1, tokens, 64, seed=2)), options

    return make


def keyframes():
    """The first and the last frame are given; some text tokens stand for pictures.

    ComfyUI up to 0.30 reads `frame_count`, later ones `latent`.
    """
    latents = [randn(1, 24, 1, 6, 10, seed=7), randn(1, 24, 1, 6, 10, seed=8)]
    places = [0, 8]
    return {
        "keyframes": [
            {"resolved_frame_index": place, "latent": latent} for place, latent in zip(places, latents, strict=True)
        ],
        "frame_count": 9,
        "cond_video_latents": latents,
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
if takes_masks():
    CASES.append(ModelCase("minimax-h3: masks and keyframes", build, inputs(payload=keyframes, masked=True)))
