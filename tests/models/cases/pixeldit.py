"""PixelDiT and PiD."""

from support.model_case import ModelCase, randn

SETTINGS = {
    "num_groups": 4, "hidden_size": 256, "pixel_attn_hidden_size": 64, "pixel_num_groups": 2, "patch_depth": 3,
    "pixel_depth": 2, "patch_size": 4, "txt_embed_dim": 64,
}  # fmt: skip


def build(**kwargs):
    import comfy.ldm.pixeldit.model

    return comfy.ldm.pixeldit.model.PixDiT_T2I(**SETTINGS, **kwargs)


def build_pid(**kwargs):
    import comfy.ldm.pixeldit.pid

    return comfy.ldm.pixeldit.pid.PidNet(
        **SETTINGS, lq_hidden_dim=32, lq_num_res_blocks=1, sr_scale=2, latent_spatial_down_factor=4,
        rope_ref_h=64, rope_ref_w=64, pit_lq_inject=True, **kwargs,
    )  # fmt: skip


def inputs(size=(24, 36), tokens=33, batch=1, **extra):
    def make():
        return (
            (randn(batch, 3, *size, seed=1), randn(batch, seed=5).abs() * 500, randn(batch, tokens, 64, seed=2)),
            {name: value() for name, value in extra.items()},
        )

    return make


def low_resolution(batch=1):
    return {
        "lq_latent": lambda: randn(batch, 16, 4, 6, seed=8),
        "degrade_sigma": lambda: randn(batch, seed=9).abs(),
    }


CASES = [
    ModelCase("pixeldit: plain", build, inputs()),
    ModelCase("pixeldit: batch 2, odd size", build, inputs(size=(26, 17), batch=2, tokens=7)),
    ModelCase("pixeldit: rope scaling", build, inputs(transformer_options=lambda: {"rope_options": {"scale_x": 0.5}})),
    ModelCase("pid: plain", build_pid, inputs(**low_resolution()), modes=("block",)),
    ModelCase(
        "pid: batch 2, odd size", build_pid, inputs(size=(26, 17), batch=2, **low_resolution(2)), modes=("block",)
    ),
]
