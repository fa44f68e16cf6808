"""Mochi."""

import torch
from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.genmo.joint_model.asymm_models_joint

    return comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint(
        patch_size=2, num_heads=4, hidden_size_x=256, hidden_size_y=128, depth=3, mlp_ratio_x=48.0, mlp_ratio_y=4.0,
        learn_sigma=False, in_channels=12, qk_norm=True, qkv_bias=False, out_bias=True, attn_drop=0.0,
        patch_embed_bias=True, posenc_preserve_area=True, timestep_mlp_bias=True, attend_to_padding=False,
        timestep_scale=1000.0, use_t5=True, t5_feat_dim=64, t5_token_length=64, **kwargs,
    )  # fmt: skip


def inputs(size=(3, 6, 10), used=33, tokens=64, batch=1):
    def make():
        mask = (torch.arange(tokens)[None] < used).repeat(batch, 1)
        return (
            (randn(batch, 12, *size, seed=1), randn(batch, seed=5).sigmoid(), randn(batch, tokens, 64, seed=2), mask),
            {"num_tokens": used},
        )

    return make


CASES = [
    ModelCase("mochi: plain", build, inputs()),
    ModelCase("mochi: batch 2, odd size", build, inputs(size=(2, 6, 14), batch=2, used=7)),
    ModelCase("mochi: one text token", build, inputs(used=1)),
    ModelCase("mochi: all text tokens", build, inputs(used=64)),
]
