"""LTX-Video."""

import torch
from support.model_case import ModelCase, randn


def build(**config):
    def make(**kwargs):
        import comfy.ldm.lightricks.model

        settings = {
            "in_channels": 16, "cross_attention_dim": 256, "attention_head_dim": 64, "num_attention_heads": 4,
            "caption_channels": 64, "num_layers": 2,
        }  # fmt: skip
        return comfy.ldm.lightricks.model.LTXVModel(**settings | config, **kwargs)

    return make


def inputs(size=(4, 5, 7), tokens=33, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        timestep = kwargs.pop("timestep", randn(batch, 1, seed=5).sigmoid())
        attention_mask = kwargs.pop("attention_mask", None)
        return (
            (randn(batch, 16, *size, seed=1), timestep, randn(batch, tokens, 64, seed=2), attention_mask),
            kwargs,
        )

    return make


def text_mask():
    return (torch.arange(33)[None] < 29).long()


def token_timesteps():
    return randn(1, 140, 1, seed=6).sigmoid()


def guides(strength=1.0, pixel_mask=None, removed=0):
    """Two of four frames are guides, 35 tokens each, with positions of their own; `removed` tokens are masked off."""

    def make():
        mask = torch.ones(1, 1, 4, 5, 7)
        mask[:, :, 2:] = 0.3
        mask.view(-1)[70 : 70 + removed] = -1
        coords = randn(1, 3, 70, 2, seed=12).abs() * 50
        coords[..., 1] = coords[..., 0] + 1
        entries = [
            {"pre_filter_count": 35, "strength": strength, "pixel_mask": None, "latent_shape": (1, 5, 7)},
            {"pre_filter_count": 35, "strength": 0.6, "pixel_mask": pixel_mask, "latent_shape": (1, 5, 7)},
        ]
        return (
            (randn(1, 16, 4, 5, 7, seed=1), token_timesteps(), randn(1, 33, 64, seed=2), None),
            {"keyframe_idxs": coords, "denoise_mask": mask, "guide_attention_entries": entries},
        )

    return make


CASES = [
    ModelCase("ltxv: plain", build(), inputs()),
    ModelCase("ltxv: batch 2, odd size", build(), inputs(size=(3, 3, 7), batch=2, tokens=7)),
    ModelCase(
        "ltxv: split rope, cross-attention modulated", build(rope_type="split", cross_attention_adaln=True), inputs()
    ),
    ModelCase("ltxv: text mask", build(), inputs(attention_mask=text_mask)),
    ModelCase("ltxv: per-token timesteps", build(), inputs(timestep=token_timesteps)),
    ModelCase("ltxv: guide frames, attenuated", build(), guides(strength=0.4)),
    ModelCase(
        "ltxv: guide frames, pixel mask",
        build(),
        guides(pixel_mask=torch.linspace(0, 1, 40 * 56).view(1, 1, 1, 40, 56)),
    ),
    ModelCase("ltxv: guide frames, tokens removed", build(), guides(removed=9)),
]
