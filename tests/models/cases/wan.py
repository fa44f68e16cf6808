"""Wan 2.1 and 2.2."""

from support.model_case import ModelCase, randn

from models import inner_patches


def build(model_type="t2v", **config):
    def make(**kwargs):
        import comfy.ldm.wan.model

        settings = {
            "model_type": model_type, "in_dim": 16, "dim": 256, "ffn_dim": 512, "freq_dim": 64, "text_dim": 64,
            "out_dim": 16, "num_heads": 4, "num_layers": 2, "text_len": 64,
        }  # fmt: skip
        return comfy.ldm.wan.model.WanModel(**settings | config, **kwargs)

    return make


def inputs(size=(3, 6, 10), tokens=33, batch=1, channels=16, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        timestep = kwargs.pop("timestep", randn(batch, seed=5).abs() * 500)
        return ((randn(batch, channels, *size, seed=1), timestep, randn(batch, tokens, 64, seed=2)), kwargs)

    return make


CASES = [
    ModelCase("wan: plain", build(), inputs()),
    ModelCase("wan: batch 2, odd size", build(), inputs(size=(2, 5, 7), batch=2, tokens=7)),
    ModelCase("wan: per-frame timesteps (2.2 5B)", build(), inputs(timestep=lambda: randn(1, 3, seed=6).abs() * 500)),
    ModelCase(
        "wan: image to video",
        build("i2v", in_dim=36),
        inputs(channels=36, clip_fea=lambda: randn(1, 257, 1280, seed=7)),
    ),
    ModelCase("wan: patches after attention", build(), inputs(transformer_options=inner_patches.wan)),
]
