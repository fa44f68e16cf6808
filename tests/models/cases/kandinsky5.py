"""Kandinsky 5."""

from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.kandinsky5.model

    return comfy.ldm.kandinsky5.model.Kandinsky5(
        in_visual_dim=16, out_visual_dim=16, in_text_dim=64, in_text_dim2=48, time_dim=128, model_dim=256, ff_dim=512,
        visual_embed_dim=64, num_text_blocks=2, num_visual_blocks=2, **kwargs,
    )  # fmt: skip


def inputs(size=(3, 6, 10), tokens=33, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (
                randn(batch, 16, *size, seed=1),
                randn(batch, seed=5).abs() * 500,
                randn(batch, tokens, 64, seed=2),
                randn(batch, 48, seed=3),
            ),
            kwargs,
        )

    return make


CASES = [
    ModelCase("kandinsky5: plain", build, inputs()),
    ModelCase("kandinsky5: batch 2, odd size", build, inputs(size=(2, 5, 7), batch=2, tokens=7)),
    ModelCase("kandinsky5: image", build, inputs(size=(13, 18))),
    ModelCase("kandinsky5: image to video", build, inputs(time_dim_replace=lambda: randn(1, 16, 1, 6, 10, seed=6))),
]
