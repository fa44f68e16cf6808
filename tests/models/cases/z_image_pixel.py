"""Z-Image in pixel space."""

from support.model_case import ModelCase

from models.cases.z_image import inputs


def build(**kwargs):
    import comfy.ldm.lumina.model

    return comfy.ldm.lumina.model.NextDiTPixelSpace(
        patch_size=2, in_channels=16, dim=256, n_layers=2, n_refiner_layers=2, n_heads=8, n_kv_heads=8,
        axes_dims=[8, 12, 12], axes_lens=[64, 64, 64], cap_feat_dim=64, qk_norm=True, rope_theta=256.0,
        ffn_dim_multiplier=8 / 3, z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32,
        decoder_hidden_size=48, decoder_num_res_blocks=2, **kwargs,
    )  # fmt: skip


CASES = [
    ModelCase("z-image pixel space: plain", build, inputs()),
    ModelCase("z-image pixel space: odd size", build, inputs(size=(13, 9), tokens=7)),
]
