"""Lens."""

import torch
from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.lens.model

    return comfy.ldm.lens.model.LensTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=32, num_attention_heads=6,
        enc_hidden_dim=24, axes_dims_rope=(8, 12, 12), **kwargs,
    )  # fmt: skip


def inputs(size=(6, 9), tokens=33, batch=1, **extra):
    def make():
        return (
            (randn(batch, 16, *size, seed=1), randn(batch, seed=5).sigmoid(), randn(batch, tokens, 96, seed=2)),
            {name: value() for name, value in extra.items()},
        )

    return make


def padding_masks():
    """A prompt of 29 tokens and one of 33."""
    return torch.arange(33)[None] < torch.tensor([[29], [33]])


def residuals():
    return {"input": [randn(1, 54, 192, seed=20), None]}


CASES = [
    ModelCase("lens: plain", build, inputs()),
    ModelCase("lens: batch 2, odd size", build, inputs(size=(7, 5), batch=2, tokens=7)),
    ModelCase("lens: padding masks", build, inputs(batch=2, attention_mask=padding_masks)),
    ModelCase("lens: ControlNet", build, inputs(control=residuals)),
]
