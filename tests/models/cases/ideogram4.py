"""Ideogram 4."""

import torch
from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.ideogram4.model

    return comfy.ldm.ideogram4.model.Ideogram4Transformer2DModel(
        in_channels=32, num_layers=2, num_attention_heads=4, attention_head_dim=64, intermediate_size=512,
        adaln_dim=128, llm_features_dim=96, mrope_section=(12, 10, 10), **kwargs,
    )  # fmt: skip


def inputs(size=(6, 9), tokens=33, batch=1, **extra):
    def make():
        context = randn(batch, tokens, 96, seed=2) if tokens else None
        return (
            (randn(batch, 32, *size, seed=1), randn(batch, seed=5).sigmoid(), context),
            {name: value() for name, value in extra.items()},
        )

    return make


def padding_masks():
    """A prompt of 29 tokens and one of 33."""
    return (torch.arange(33)[None] < torch.tensor([[29], [33]])).long()


CASES = [
    ModelCase("ideogram4: plain", build, inputs()),
    ModelCase("ideogram4: batch 2, odd size", build, inputs(size=(7, 5), batch=2, tokens=7)),
    ModelCase("ideogram4: padding masks", build, inputs(batch=2, attention_mask=padding_masks)),
    ModelCase("ideogram4: without text", build, inputs(tokens=0)),
]
