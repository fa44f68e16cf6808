"""Mage-Flow."""

import torch
from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.mage_flow.model

    return comfy.ldm.mage_flow.model.MageFlowTransformer2DModel(
        in_channels=16, out_channels=16, num_layers=2, attention_head_dim=32, num_attention_heads=6,
        joint_attention_dim=64, axes_dims_rope=(8, 12, 12), **kwargs,
    )  # fmt: skip


def inputs(size=(6, 9), tokens=33, batch=1, **extra):
    def make():
        return (
            (randn(batch, 16, *size, seed=1), randn(batch, seed=5).sigmoid(), randn(batch, tokens, 64, seed=2)),
            {name: value() for name, value in extra.items()},
        )

    return make


def references():
    return [randn(1, 16, 4, 5, seed=30), randn(1, 16, 2, 3, seed=31)]


def residuals():
    return {"input": [randn(1, 54, 192, seed=20), None]}


CASES = [
    ModelCase("mage-flow: plain", build, inputs()),
    ModelCase("mage-flow: batch 2, odd size", build, inputs(size=(7, 5), batch=2, tokens=7)),
    ModelCase("mage-flow: padding mask", build, inputs(attention_mask=lambda: (torch.arange(33)[None] < 29).long())),
    ModelCase("mage-flow: ControlNet", build, inputs(control=residuals)),
    ModelCase("mage-flow: references", build, inputs(ref_latents=references)),
    ModelCase("mage-flow: references and ControlNet", build, inputs(ref_latents=references, control=residuals)),
]
