"""Krea 2."""

from support.model_case import ModelCase, randn

from models import inner_patches


def build(**kwargs):
    import comfy.ldm.krea2.model

    return comfy.ldm.krea2.model.SingleStreamDiT(
        features=256, tdim=64, txtdim=32, heads=4, kvheads=2, layers=2, txtlayers=3, txtheads=2, txtkvheads=2, **kwargs
    )


def inputs(size=(12, 18), tokens=33, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (randn(batch, 16, 1, *size, seed=1), randn(batch, seed=5).abs(), randn(batch, tokens, 96, seed=2)),
            kwargs,
        )

    return make


def references():
    return [randn(1, 16, 1, 8, 10, seed=30), randn(1, 16, 1, 4, 6, seed=31)]


CASES = [
    ModelCase("krea2: plain", build, inputs()),
    ModelCase("krea2: batch 2, odd size", build, inputs(size=(13, 9), batch=2, tokens=7)),
    ModelCase("krea2: references", build, inputs(ref_latents=references, ref_latents_method="index")),
    ModelCase(
        "krea2: timestep zero references, batch 2",
        build,
        inputs(batch=2, ref_latents=references, ref_latents_method="index_timestep_zero"),
    ),
    ModelCase(
        "krea2: patches around attention", build, inputs(transformer_options=inner_patches.around_joint_attention)
    ),
]
