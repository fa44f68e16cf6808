"""JoyImage Edit."""

from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.joyimage.model

    return comfy.ldm.joyimage.model.JoyImageTransformer3DModel(
        hidden_size=256, num_attention_heads=4, text_dim=64, num_layers=2, rope_dim_list=[16, 24, 24], **kwargs
    )


def inputs(size=(1, 12, 18), tokens=33, batch=1, **extra):
    def make():
        return (
            (randn(batch, 16, *size, seed=1), randn(batch, seed=5).abs() * 500, randn(batch, tokens, 64, seed=2)),
            {name: value() for name, value in extra.items()},
        )

    return make


def references():
    return [randn(1, 16, 1, 8, 10, seed=30), randn(1, 16, 1, 4, 6, seed=31)]


CASES = [
    ModelCase("joyimage: plain", build, inputs()),
    ModelCase("joyimage: batch 2, odd size", build, inputs(size=(1, 13, 9), batch=2, tokens=7)),
    ModelCase("joyimage: references", build, inputs(ref_latents=references)),
]
