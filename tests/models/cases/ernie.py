"""Ernie-Image."""

from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.ernie.model

    return comfy.ldm.ernie.model.ErnieImageModel(
        hidden_size=256, num_attention_heads=4, num_layers=2, ffn_hidden_size=512, in_channels=16, out_channels=16,
        text_in_dim=64, rope_axes_dim=(16, 24, 24), **kwargs,
    )  # fmt: skip


def inputs(size=(6, 9), tokens=33, batch=1, **extra):
    def make():
        return (
            (randn(batch, 16, *size, seed=1), randn(batch, seed=5).abs() * 500, randn(batch, tokens, 64, seed=2)),
            {name: value() for name, value in extra.items()},
        )

    return make


def scaled_positions():
    return {"rope_options": {"scale_x": 0.5, "scale_y": 0.75, "shift_t": 3.0, "shift_x": 1.5, "shift_y": -2.0}}


CASES = [
    ModelCase("ernie: plain", build, inputs()),
    ModelCase("ernie: batch 2, odd size", build, inputs(size=(7, 5), batch=2, tokens=7)),
    ModelCase("ernie: rope scaling", build, inputs(transformer_options=scaled_positions)),
]
