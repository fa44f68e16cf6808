"""OmniGen2."""

from support.model_case import ModelCase, randn


def build(heads=6, kv_heads=2, **kwargs):
    import comfy.ldm.omnigen.omnigen2

    return comfy.ldm.omnigen.omnigen2.OmniGen2Transformer2DModel(
        hidden_size=192, num_layers=2, num_refiner_layers=2, num_attention_heads=heads, num_kv_heads=kv_heads,
        axes_dim_rope=(8, 12, 12), text_feat_dim=48, multiple_of=64, **kwargs,
    )  # fmt: skip


def build_ungrouped(**kwargs):
    return build(heads=6, kv_heads=6, **kwargs)


def inputs(size=(12, 18), tokens=33, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (randn(batch, 16, *size, seed=1), randn(batch, seed=5).sigmoid(), randn(batch, tokens, 48, seed=2), tokens),
            kwargs,
        )

    return make


def references(batch=1):
    return [randn(batch, 16, 8, 10, seed=30), randn(batch, 16, 5, 6, seed=31)]


CASES = [
    ModelCase("omnigen2: plain", build, inputs()),
    ModelCase("omnigen2: batch 2, odd size", build, inputs(size=(13, 9), batch=2, tokens=7)),
    ModelCase("omnigen2: as many key as query heads", build_ungrouped, inputs()),
    ModelCase("omnigen2: two references", build, inputs(ref_latents=references)),
    ModelCase("omnigen2: two references, batch 2", build, inputs(batch=2, ref_latents=lambda: references(2))),
]
