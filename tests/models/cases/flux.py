"""Flux and Flux2."""

from support.model_case import ModelCase, randn
from support.tiny_models import FLUX_CONTEXT, FLUX_POOLED, flux_config

from models import inner_patches


def build(**kwargs):
    import comfy.ldm.flux.model

    return comfy.ldm.flux.model.Flux(**flux_config(512, 2, 2, True), **kwargs)


def build_flux2(**kwargs):
    import comfy.ldm.flux.model

    config = flux_config(512, 2, 2, True) | {
        "vec_in_dim": None, "axes_dim": [32, 32, 32, 32], "theta": 2000, "patch_size": 1, "qkv_bias": False,
        "txt_ids_dims": [3], "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "mlp_ratio": 3.0,
        "default_ref_method": "index", "ref_index_scale": 10.0,
    }  # fmt: skip
    return comfy.ldm.flux.model.Flux(**config, **kwargs)


def inputs(size=(12, 18), tokens=33, batch=1, pooled=True, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        if pooled:
            kwargs["y"] = randn(batch, FLUX_POOLED, seed=3)
        return (
            (randn(batch, 16, *size, seed=1), randn(batch, seed=5).abs(), randn(batch, tokens, FLUX_CONTEXT, seed=2)),
            {"guidance": randn(batch, seed=4).abs() + 3, **kwargs},
        )

    return make


def residuals():
    return {
        "input": [randn(1, 54, 512, seed=20), None],
        "output": [randn(1, 54, 512, seed=21), randn(1, 54, 512, seed=22)],
    }


def references():
    return [randn(1, 16, 8, 10, seed=30), randn(1, 16, 4, 6, seed=31)]


CASES = [
    ModelCase("flux: plain", build, inputs()),
    ModelCase("flux: batch 2, odd size", build, inputs(size=(13, 9), batch=2, tokens=7)),
    ModelCase("flux: attention mask", build, inputs(attention_mask=lambda: randn(1, 87, 87, seed=9))),
    ModelCase("flux: ControlNet", build, inputs(control=residuals)),
    ModelCase("flux: reference latents", build, inputs(ref_latents=references)),
    ModelCase("flux: reference latents and ControlNet", build, inputs(ref_latents=references, control=residuals)),
    ModelCase("flux2: plain", build_flux2, inputs(pooled=False)),
    ModelCase(
        "flux2: timestep zero references",
        build_flux2,
        inputs(pooled=False, ref_latents=references, ref_latents_method="index_timestep_zero"),
    ),
    ModelCase(
        "flux: patches around attention", build, inputs(transformer_options=inner_patches.around_joint_attention)
    ),
    ModelCase("flux: NAG", build, inputs(batch=2, transformer_options=inner_patches.nag)),
]

PIPELINED = [ModelCase("flux: more text than image", build, inputs(size=(8, 8), tokens=80))]
