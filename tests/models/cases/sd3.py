"""Stable Diffusion 3, 3.5 large and 3.5 medium."""

from support.model_case import ModelCase, randn


def build(**config):
    def make(**kwargs):
        import comfy.ldm.modules.diffusionmodules.mmdit

        settings = {
            "input_size": None, "in_channels": 16, "depth": 4, "num_blocks": 3, "adm_in_channels": 32,
            "context_embedder_config": {
                "target": "torch.nn.Linear", "params": {"in_features": 48, "out_features": 256},
            },
            "qk_norm": "rms", "pos_embed_max_size": 16, "num_patches": 256,
        }  # fmt: skip
        return comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper(**settings | config, **kwargs)

    return make


def inputs(size=(12, 18), tokens=33, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (randn(batch, 16, *size, seed=1), randn(batch, seed=5).abs() * 500, randn(batch, tokens, 48, seed=2)),
            {"y": randn(batch, 32, seed=3), **kwargs},
        )

    return make


def residuals():
    return {"output": [randn(1, 54, 256, seed=20), None, randn(1, 54, 256, seed=21)]}


def skipped_block():
    """What SkipLayerGuidance sets: a block that hands on what it got."""
    return {"patches_replace": {"dit": {("double_block", 1): lambda args, extra: args}}}


def replaced_block():
    """A replaced block that runs the original one on other tokens."""

    def replace(args, extra):
        return extra["original_block"]({**args, "img": args["img"].flip(1)})

    return {"patches_replace": {"dit": {("double_block", 2): replace}}}


medium = build(x_block_self_attn_layers=[0, 1])

CASES = [
    ModelCase("sd3: plain", build(), inputs()),
    ModelCase("sd3: batch 2, odd size", build(), inputs(size=(13, 9), batch=2, tokens=7)),
    ModelCase(
        "sd3: computed positions, context processor",
        build(pos_embed_max_size=None, num_patches=None, qk_norm=None, context_processor_layers=1, context_size=48),
        inputs(),
    ),
    ModelCase("sd3: ControlNet", build(), inputs(control=residuals)),
    ModelCase("sd3: skipped layer", build(), inputs(transformer_options=skipped_block), modes=("block", "auto")),
    ModelCase("sd3.5 medium: plain", medium, inputs()),
    ModelCase("sd3.5 medium: batch 2, odd size", medium, inputs(size=(13, 9), batch=2, tokens=7)),
    ModelCase("sd3.5 medium: ControlNet", medium, inputs(control=residuals)),
    ModelCase(
        "sd3.5 medium: replaced block", medium, inputs(transformer_options=replaced_block), modes=("block", "auto")
    ),
]

PIPELINED = [ModelCase("sd3.5 medium: more text than image", medium, inputs(size=(8, 8), tokens=80))]
