"""Cosmos 1 and Cosmos Predict2."""

from support.model_case import ModelCase, randn

SHARED = {
    "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
    "patch_temporal": 1, "concat_padding_mask": True, "model_channels": 256, "num_blocks": 2, "num_heads": 4,
    "crossattn_emb_channels": 64, "pos_emb_cls": "rope3d", "use_adaln_lora": True, "adaln_lora_dim": 32,
    "rope_t_extrapolation_ratio": 2.0, "extra_per_block_abs_pos_emb": True,
}  # fmt: skip


def build(**kwargs):
    import comfy.ldm.cosmos.model

    return comfy.ldm.cosmos.model.GeneralDIT(
        **SHARED, block_config="FA-CA-MLP", block_x_format="THWBD", affline_emb_norm=True,
        extra_per_block_abs_pos_emb_type="learnable", **kwargs,
    )  # fmt: skip


def build_predict2(extra_positions=False):
    def make(**kwargs):
        import comfy.ldm.cosmos.predict2

        return comfy.ldm.cosmos.predict2.MiniTrainDIT(
            **SHARED | {"extra_per_block_abs_pos_emb": extra_positions}, **kwargs
        )

    return make


def inputs(size=(3, 6, 10), tokens=33, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        timestep = kwargs.pop("timestep", randn(batch, seed=5).abs())
        return ((randn(batch, 16, *size, seed=1), timestep, randn(batch, tokens, 64, seed=2)), kwargs)

    return make


BLOCK = {"modes": ("block", "auto")}

CASES = [
    ModelCase("cosmos: plain", build, inputs(), **BLOCK),
    ModelCase("cosmos: batch 2, odd size", build, inputs(size=(2, 6, 14), batch=2, tokens=7), **BLOCK),
    ModelCase(
        "cosmos: padding mask, frame rate",
        build,
        inputs(padding_mask=lambda: randn(1, 1, 6, 10, seed=7), fps=24),
        **BLOCK,
    ),
    ModelCase("cosmos-predict2: plain", build_predict2(), inputs()),
    ModelCase("cosmos-predict2: batch 2, odd size", build_predict2(), inputs(size=(2, 5, 7), batch=2, tokens=7)),
    ModelCase("cosmos-predict2: image", build_predict2(), inputs(size=(1, 12, 18))),
    ModelCase(
        "cosmos-predict2: per-frame timesteps", build_predict2(), inputs(timestep=lambda: randn(1, 3, seed=6).abs())
    ),
    ModelCase("cosmos-predict2: positions for each block", build_predict2(True), inputs()),
]
