"""PixArt alpha and sigma."""

from support.model_case import ModelCase, randn


def build(**config):
    def make(**kwargs):
        import comfy.ldm.pixart.pixartms

        settings = {
            "in_channels": 4, "hidden_size": 192, "depth": 2, "num_heads": 4, "caption_channels": 48,
            "model_max_length": 40, "micro_condition": False, "pe_interpolation": 2,
        }  # fmt: skip
        return comfy.ldm.pixart.pixartms.PixArtMS(**settings | config, **kwargs)

    return make


def inputs(size=(32, 48), tokens=33, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (randn(batch, 4, *size, seed=1), randn(batch, seed=5).abs() * 500, randn(batch, tokens, 48, seed=2)),
            kwargs,
        )

    return make


CASES = [
    ModelCase("pixart: plain", build(), inputs()),
    ModelCase("pixart: batch 2, tokens that do not divide", build(), inputs(size=(34, 46), batch=2, tokens=7)),
    ModelCase("pixart: alpha's size conditions", build(micro_condition=True, pe_interpolation=None), inputs(batch=2)),
    ModelCase("pixart: normalised queries and keys", build(qk_norm=True), inputs()),
]
