"""Qwen-Image and Qwen-Image Edit."""

from support.model_case import ModelCase, randn

from models import inner_patches


def build(**kwargs):
    import comfy.ldm.qwen_image.model

    return comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(
        num_layers=2, attention_head_dim=128, num_attention_heads=4, joint_attention_dim=64, in_channels=64, **kwargs
    )


def inputs(size=(12, 18), tokens=33, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (randn(batch, 16, 1, *size, seed=1), randn(batch, seed=5).abs(), randn(batch, tokens, 64, seed=2)),
            kwargs,
        )

    return make


def references():
    return [randn(1, 16, 1, 8, 10, seed=30), randn(1, 16, 1, 4, 6, seed=31)]


def padding_mask(tokens=33, used=29):
    import torch

    return torch.arange(tokens)[None] < used


CASES = [
    ModelCase("qwen-image: plain", build, inputs()),
    ModelCase("qwen-image: batch 2, odd size", build, inputs(size=(13, 9), batch=2, tokens=7)),
    ModelCase("qwen-image: padding mask", build, inputs(attention_mask=lambda: padding_mask().long())),
    ModelCase("qwen-image: ControlNet", build, inputs(control=lambda: {"input": [randn(1, 54, 512, seed=20), None]})),
    ModelCase("qwen-image: edit, two references", build, inputs(ref_latents=references)),
    ModelCase(
        "qwen-image: edit 2511, timestep zero",
        build,
        inputs(ref_latents=references, ref_latents_method="index_timestep_zero"),
    ),
    ModelCase(
        "qwen-image: patches before attention",
        build,
        inputs(
            attention_mask=lambda: padding_mask().long(),
            transformer_options=lambda: inner_patches.around_joint_attention(output_too=False),
        ),
    ),
]

PIPELINED = [
    ModelCase(
        "qwen-image: padding mask, few tokens",
        build,
        inputs(size=(4, 14), tokens=2, attention_mask=lambda: padding_mask(2, 1).long()),
    ),
]
