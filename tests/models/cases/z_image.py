"""Lumina 2 and Z-Image (NextDiT)."""

from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.lumina.model

    return comfy.ldm.lumina.model.NextDiT(
        patch_size=2, in_channels=16, dim=192, n_layers=2, n_refiner_layers=2, n_heads=6, n_kv_heads=3,
        axes_dims=[8, 12, 12], axes_lens=[64, 64, 64], cap_feat_dim=64, qk_norm=True, **kwargs,
    )  # fmt: skip


def build_z_image(**kwargs):
    import comfy.ldm.lumina.model

    return comfy.ldm.lumina.model.NextDiT(
        patch_size=2, in_channels=16, dim=256, n_layers=2, n_refiner_layers=2, n_heads=8, n_kv_heads=8,
        axes_dims=[8, 12, 12], axes_lens=[64, 64, 64], cap_feat_dim=64, qk_norm=True, rope_theta=256.0,
        ffn_dim_multiplier=8 / 3, z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32, **kwargs,
    )  # fmt: skip


def inputs(size=(12, 18), tokens=33, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (randn(batch, 16, *size, seed=1), randn(batch, seed=5).sigmoid(), randn(batch, tokens, 64, seed=2), tokens),
            kwargs,
        )

    return make


CASES = [
    ModelCase("lumina2: plain", build, inputs()),
    ModelCase("lumina2: batch 2, odd size", build, inputs(size=(13, 9), batch=2, tokens=7)),
    ModelCase("z-image: plain", build_z_image, inputs()),
]
