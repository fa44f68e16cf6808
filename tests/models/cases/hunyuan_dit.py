"""HunyuanDiT."""

from support.model_case import ModelCase, randn


def build(**config):
    def make(**kwargs):
        import comfy.ldm.hydit.models

        settings = {
            "in_channels": 4, "hidden_size": 256, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0, "text_states_dim": 64,
            "text_states_dim_t5": 64, "text_len": 12, "text_len_t5": 20,
        }  # fmt: skip
        return comfy.ldm.hydit.models.HunYuanDiT(**settings | config, **kwargs)

    return make


def text_mask(batch, tokens, used):
    import torch

    return (torch.arange(tokens)[None] < used).long().repeat(batch, 1)


def inputs(size=(12, 18), tokens=12, t5=20, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (randn(batch, 4, *size, seed=1), randn(batch, seed=5).abs() * 500, randn(batch, tokens, 64, seed=2)),
            {
                "text_embedding_mask": text_mask(batch, tokens, 9),
                "encoder_hidden_states_t5": randn(batch, t5, 64, seed=3),
                "text_embedding_mask_t5": text_mask(batch, t5, 13),
                "image_meta_size": randn(batch, 6, seed=4) * 100,
                **kwargs,
            },
        )

    return make


def residuals():
    return {"output": [randn(1, 54, 256, seed=20)]}


CASES = [
    ModelCase("hunyuan-dit: plain", build(), inputs()),
    ModelCase("hunyuan-dit: batch 2, odd size", build(), inputs(size=(13, 9), batch=2)),
    ModelCase("hunyuan-dit: size and style conditions", build(size_cond=True, use_style_cond=True), inputs()),
    ModelCase("hunyuan-dit: longer text", build(), inputs(tokens=33, t5=41)),
    ModelCase("hunyuan-dit: ControlNet", build(), inputs(control=residuals)),
]
