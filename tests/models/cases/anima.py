"""Anima. Its text adapter, 400 MB whatever the rest measures, has run before the model is called."""

from support.model_case import ModelCase

from models import inner_patches
from models.cases.cosmos import SHARED, inputs


def build(**kwargs):
    import comfy.ldm.anima.model

    model = comfy.ldm.anima.model.Anima(**SHARED | {"extra_per_block_abs_pos_emb": False}, **kwargs)
    del model.llm_adapter
    return model


CASES = [
    ModelCase("anima: plain", build, inputs(size=(1, 12, 18))),
    ModelCase("anima: batch 2, odd size", build, inputs(size=(1, 13, 9), batch=2, tokens=7)),
    ModelCase(
        "anima: patches inside the blocks",
        build,
        inputs(size=(1, 13, 9), batch=2, transformer_options=inner_patches.on_a_grid),
    ),
]
