"""Chroma and Chroma Radiance."""

from support.model_case import ModelCase, randn

CONTEXT = 64
CONFIG = {
    "in_channels": 16, "out_channels": 16, "context_in_dim": CONTEXT, "hidden_size": 512, "mlp_ratio": 4.0,
    "num_heads": 4, "depth": 2, "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "in_dim": 64, "out_dim": 512, "hidden_dim": 64, "n_layers": 2, "txt_ids_dims": [],
    "vec_in_dim": None,
}  # fmt: skip


def build(**kwargs):
    import comfy.ldm.chroma.model

    return comfy.ldm.chroma.model.Chroma(**CONFIG | {"in_channels": 64, "out_channels": 64}, **kwargs)


def build_radiance(**config):
    def make(**kwargs):
        import comfy.ldm.chroma_radiance.model

        settings = CONFIG | {
            "in_channels": 3, "out_channels": 3, "nerf_hidden_size": 16, "nerf_mlp_ratio": 2, "nerf_depth": 2,
            "nerf_max_freqs": 4, "nerf_tile_size": 0, "nerf_final_head_type": "conv", "nerf_embedder_dtype": None,
            "use_x0": False, "use_sequential_txt_ids": False,
        }  # fmt: skip
        return comfy.ldm.chroma_radiance.model.ChromaRadiance(**settings | config, **kwargs)

    return make


def inputs(size=(12, 18), tokens=33, batch=1, channels=16, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (randn(batch, channels, *size, seed=1), randn(batch, seed=5).abs(), randn(batch, tokens, CONTEXT, seed=2)),
            {"guidance": randn(batch, seed=4).abs(), **kwargs},
        )

    return make


def residuals():
    return {
        "input": [randn(1, 54, 512, seed=20), None],
        "output": [randn(1, 54, 512, seed=21), randn(1, 54, 512, seed=22)],
    }


def mask():
    return randn(1, 87, 87, seed=9)


CASES = [
    ModelCase("chroma: plain", build, inputs()),
    ModelCase("chroma: batch 2, odd size", build, inputs(size=(13, 9), batch=2, tokens=7)),
    ModelCase("chroma: attention mask", build, inputs(attention_mask=mask)),
    ModelCase("chroma: ControlNet", build, inputs(control=residuals)),
    ModelCase("chroma: ControlNet and attention mask", build, inputs(control=residuals, attention_mask=mask)),
    ModelCase("chroma radiance: plain", build_radiance(), inputs(channels=3)),
    ModelCase(
        "chroma radiance: batch 2, odd size", build_radiance(), inputs(size=(13, 9), batch=2, tokens=7, channels=3)
    ),
    ModelCase(
        "chroma radiance: x0, tiles, sequential text",
        build_radiance(use_x0=True, nerf_tile_size=16, nerf_final_head_type="linear", use_sequential_txt_ids=True),
        inputs(channels=3),
    ),
    ModelCase(
        "chroma radiance: ControlNet and attention mask",
        build_radiance(),
        inputs(channels=3, control=residuals, attention_mask=mask),
    ),
]
