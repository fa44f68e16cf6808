"""AuraFlow."""

from support.model_case import ModelCase, randn


def build(**kwargs):
    import comfy.ldm.aura.mmdit

    return comfy.ldm.aura.mmdit.MMDiT(
        dim=256, n_layers=4, n_double_layers=2, n_heads=4, global_conddim=128, cond_seq_dim=64, max_seq=64, **kwargs
    )


def inputs(size=(12, 16), tokens=33, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (randn(batch, 4, *size, seed=1), randn(batch, seed=5).abs(), randn(batch, tokens, 64, seed=2)),
            kwargs,
        )

    return make


def replaced_blocks():
    def replace(args, extra):
        return extra["original_block"]({**args, "img": args["img"].flip(1)})

    return {"patches_replace": {"dit": {("double_block", 1): replace, ("single_block", 0): replace}}}


CASES = [
    ModelCase("auraflow: plain", build, inputs()),
    ModelCase("auraflow: batch 2, odd size", build, inputs(size=(13, 9), batch=2, tokens=7)),
    ModelCase("auraflow: positions stretched", build, inputs(size=(12, 18))),
    ModelCase("auraflow: replaced blocks", build, inputs(transformer_options=replaced_blocks), modes=("block", "auto")),
]
