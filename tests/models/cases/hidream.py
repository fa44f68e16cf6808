"""HiDream-I1 and E1."""

from support.model_case import ModelCase, randn


def build(**config):
    def make(**kwargs):
        import comfy.ldm.hidream.model

        settings = {
            "patch_size": 2, "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 64,
            "num_attention_heads": 4, "caption_channels": [48, 32], "text_emb_dim": 64, "num_routed_experts": 4,
            "num_activated_experts": 2, "axes_dims_rope": (16, 24, 24), "llama_layers": [0, 1, 2, 2],
        }  # fmt: skip
        return comfy.ldm.hidream.model.HiDreamImageTransformer2DModel(**settings | config, **kwargs)

    return make


def inputs(size=(12, 18), tokens=33, llama=21, batch=1, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        return (
            (randn(batch, 16, *size, seed=1), randn(batch, seed=5).abs() * 500),
            {
                "y": randn(batch, 64, seed=3),
                "context": randn(batch, tokens, 48, seed=2),
                "encoder_hidden_states_llama3": randn(batch, 3, llama, 32, seed=4),
                **kwargs,
            },
        )

    return make


WHOLE_BETWEEN = ("block", "auto")
CASES = [
    ModelCase("hidream: plain", build(), inputs(), WHOLE_BETWEEN),
    ModelCase("hidream: batch 2, odd size", build(), inputs(size=(13, 9), batch=2, tokens=7), WHOLE_BETWEEN),
    ModelCase(
        "hidream: no experts, rotary positions on half a head",
        build(num_routed_experts=0, axes_dims_rope=(8, 12, 12)),
        inputs(),
        WHOLE_BETWEEN,
    ),
    ModelCase("hidream: edit (E1)", build(), inputs(image_cond=lambda: randn(1, 16, 12, 18, seed=8)), WHOLE_BETWEEN),
]
