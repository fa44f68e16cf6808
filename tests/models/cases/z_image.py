"""Lumina 2 and Z-Image (NextDiT)."""

from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.lumina.model

    return comfy.ldm.lumina.model.NextDiT(
        patch_size=2, in_channels=16, dim=192, n_layers=2, n_refiner_layers=2, n_heads=6, n_kv_heads=3,
        axes_dims=[8, 12, 12], axes_lens=[64, 64, 64], cap_feat_dim=64, qk_norm=True, **kwargs,
    )  # fmt: skip


def build_z_image(siglip_feat_dim=None, **kwargs):
    import comfy.ldm.lumina.model

    return comfy.ldm.lumina.model.NextDiT(
        patch_size=2, in_channels=16, dim=256, n_layers=2, n_refiner_layers=2, n_heads=8, n_kv_heads=8,
        axes_dims=[8, 12, 12], axes_lens=[64, 64, 64], cap_feat_dim=64, qk_norm=True, rope_theta=256.0,
        ffn_dim_multiplier=8 / 3, z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32,
        siglip_feat_dim=siglip_feat_dim, **kwargs,
    )  # fmt: skip


def build_omni(**kwargs):
    return build_z_image(siglip_feat_dim=48, **kwargs)


def inputs(size=(12, 18), tokens=33, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (randn(batch, 16, *size, seed=1), randn(batch, seed=5).sigmoid(), randn(batch, tokens, 64, seed=2), tokens),
            kwargs,
        )

    return make


def references():
    return [randn(1, 16, 8, 10, seed=30), randn(1, 16, 4, 6, seed=31)]


def reference_prompts():
    return [randn(1, 9, 64, seed=32), randn(1, 40, 64, seed=33)]


def vision_features():
    return [randn(1, 3, 4, 48, seed=34), randn(1, 2, 2, 48, seed=35)]


def control_patches():
    """Z-Image's ControlNet: patches that add to the image after each layer, and at the start of its refiner."""

    def patch(args):
        residual = randn(*args["img"].shape, seed=20 + args["block_index"], scale=0.3)
        return {"img": args["img"] + residual * args["img_input"]}

    return {"patches": {"noise_refiner": [patch], "double_block": [patch]}}


CASES = [
    ModelCase("lumina2: plain", build, inputs()),
    ModelCase("lumina2: batch 2, odd size", build, inputs(size=(13, 9), batch=2, tokens=7)),
    ModelCase("z-image: plain", build_z_image, inputs()),
    ModelCase("z-image: batch 2, odd size", build_z_image, inputs(size=(13, 9), batch=2, tokens=7)),
    ModelCase(
        "z-image: ControlNet", build_z_image, inputs(transformer_options=control_patches), modes=("block", "auto")
    ),
    ModelCase("z-image: references", build_z_image, inputs(ref_latents=references, ref_contexts=reference_prompts)),
    ModelCase(
        "z-image omni: references with vision features",
        build_omni,
        inputs(ref_latents=references, ref_contexts=reference_prompts, siglip_feats=vision_features),
    ),
]
