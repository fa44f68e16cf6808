"""LongCat-Image: the class Flux, its text numbered and its image moved behind the text by rope options."""

from support.model_case import ModelCase
from support.tiny_models import flux_config

from .flux import inputs, residuals


def build(**kwargs):
    import comfy.ldm.flux.model

    config = flux_config(512, 2, 2, False) | {"vec_in_dim": None, "txt_ids_dims": [1, 2]}
    return comfy.ldm.flux.model.Flux(**config, **kwargs)


def options(tokens=33):
    return {"rope_options": {"shift_t": 1.0, "shift_y": float(tokens), "shift_x": float(tokens)}}


CASES = [
    ModelCase("longcat-image: plain", build, inputs(pooled=False, transformer_options=options)),
    ModelCase("longcat-image: ControlNet", build, inputs(pooled=False, transformer_options=options, control=residuals)),
]
