"""CogVideoX."""

import torch
from support.model_case import ModelCase, randn


def build(**config):
    def make(**kwargs):
        import comfy.ldm.cogvideo.model

        settings = {
            "num_attention_heads": 6, "attention_head_dim": 32, "time_embed_dim": 64, "text_embed_dim": 48,
            "num_layers": 2, "sample_width": 20, "sample_height": 12, "sample_frames": 9,
        }  # fmt: skip
        return comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel(**settings | config, **kwargs)

    return make


V15 = {"patch_size_t": 2, "use_rotary_positional_embeddings": True, "ofs_embed_dim": 64}


def inputs(size=(3, 6, 10), tokens=33, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (randn(batch, 16, *size, seed=1), randn(batch, seed=5).abs() * 500, randn(batch, tokens, 48, seed=2)),
            kwargs,
        )

    return make


CASES = [
    ModelCase("cogvideo: plain", build(), inputs()),
    ModelCase("cogvideo: rotary positions", build(use_rotary_positional_embeddings=True), inputs()),
    ModelCase("cogvideo: batch 2, odd size", build(), inputs(size=(2, 6, 14), batch=2, tokens=7)),
    ModelCase("cogvideo 1.5: image to video", build(**V15), inputs(size=(4, 6, 10), ofs=lambda: torch.full((1,), 2.0))),
]
