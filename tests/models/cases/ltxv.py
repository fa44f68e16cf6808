"""LTX-Video and LTX-2."""

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
        timestep = kwargs.pop("timestep", randn(batch, seed=5).sigmoid())
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


def build_av(**config):
    def make(**kwargs):
        import comfy.ldm.lightricks.av_model

        settings = {
            "in_channels": 16, "audio_in_channels": 128, "cross_attention_dim": 256, "audio_cross_attention_dim": 128,
            "attention_head_dim": 64, "audio_attention_head_dim": 32, "num_attention_heads": 4,
            "audio_num_attention_heads": 4, "caption_channels": 64, "num_layers": 2, "connector_attention_head_dim": 16,
            "connector_num_attention_heads": 4, "connector_num_layers": 1, "rope_type": "split",
        }  # fmt: skip
        return comfy.ldm.lightricks.av_model.LTXAVModel(**settings | config, **kwargs)

    return make


def inputs_av(size=(4, 5, 7), sound=11, batch=1, video_timestep=None, sound_timestep=None, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        timestep = randn(batch, seed=5).sigmoid()
        timesteps = tuple(timestep if value is None else value() for value in (video_timestep, sound_timestep))
        latents = [randn(batch, 16, *size, seed=1), randn(batch, 8, sound, 16, seed=7)]
        return (latents, timesteps, randn(batch, 33, 128, seed=2)), kwargs

    return make


def guides_av():
    (latents, timestep, _, _), kwargs = guides(strength=0.4, removed=9)()
    sound = randn(1, 8, 11, 16, seed=7)
    return ([latents, sound], (timestep, randn(1, seed=5).sigmoid()), randn(1, 33, 128, seed=2)), kwargs


def frame_timesteps():
    return randn(1, 4, 1, seed=6).sigmoid().repeat_interleave(35, 1)


def sound_timesteps():
    return randn(1, 11, seed=9).sigmoid()


def reference_sound():
    return {"tokens": randn(1, 5, 128, seed=10)}


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
    ModelCase("ltx-2: plain", build_av(), inputs_av()),
    ModelCase("ltx-2: batch 2, odd size", build_av(), inputs_av(size=(3, 3, 7), batch=2, sound=3)),
    ModelCase("ltx-2: no sound", build_av(), inputs_av(sound=0)),
    ModelCase(
        "ltx-2: gated attention, cross-attention modulated",
        build_av(apply_gated_attention=True, cross_attention_adaln=True),
        inputs_av(attention_mask=text_mask),
    ),
    ModelCase(
        "ltx-2: per-frame timesteps",
        build_av(),
        inputs_av(video_timestep=frame_timesteps, sound_timestep=sound_timesteps),
    ),
    ModelCase(
        "ltx-2: per-token timesteps",
        build_av(),
        inputs_av(video_timestep=token_timesteps, denoise_mask=lambda: randn(1, 1, 4, 5, 7, seed=8).abs()),
    ),
    ModelCase("ltx-2: reference sound", build_av(), inputs_av(ref_audio=reference_sound)),
    ModelCase("ltx-2: guide frames, attenuated", build_av(), guides_av),
]
