"""Boogu."""

import torch
from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.boogu.model

    return comfy.ldm.boogu.model.BooguTransformer2DModel(
        hidden_size=192, num_layers=2, num_double_stream_layers=2, num_refiner_layers=1, num_attention_heads=6,
        num_kv_heads=3, axes_dim_rope=(8, 12, 12), axes_lens=(512, 64, 64), instruction_feat_dim=64, **kwargs,
    )  # fmt: skip


def inputs(size=(12, 18), tokens=33, batch=1, **extra):
    def make():
        return (
            (randn(batch, 16, *size, seed=1), randn(batch, seed=5).sigmoid(), randn(batch, tokens, 64, seed=2), tokens),
            {name: value() for name, value in extra.items()},
        )

    return make


def references():
    return [randn(1, 16, 8, 10, seed=30), randn(1, 16, 4, 6, seed=31)]


def padding_mask():
    return torch.arange(33)[None] < 29


CASES = [
    ModelCase("boogu: plain", build, inputs()),
    ModelCase("boogu: batch 2, odd size", build, inputs(size=(13, 9), batch=2, tokens=7)),
    ModelCase("boogu: padding mask", build, inputs(attention_mask=padding_mask)),
    ModelCase("boogu: references", build, inputs(ref_latents=references)),
]
