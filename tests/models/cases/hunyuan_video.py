"""HunyuanVideo 1.0 and 1.5, HunyuanImage 2.1."""

import torch
from support.model_case import ModelCase, randn

from models import inner_patches


def build(**config):
    def make(**kwargs):
        import comfy.ldm.hunyuan_video.model

        settings = {
            "in_channels": 16, "out_channels": 16, "vec_in_dim": 64, "context_in_dim": 64, "hidden_size": 256,
            "mlp_ratio": 4.0, "num_heads": 4, "depth": 2, "depth_single_blocks": 2, "axes_dim": [16, 24, 24],
            "theta": 256, "patch_size": [1, 2, 2], "qkv_bias": True, "guidance_embed": True, "byt5": False,
            "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
        }  # fmt: skip
        return comfy.ldm.hunyuan_video.model.HunyuanVideo(**settings | config, **kwargs)

    return make


V15 = {
    "vec_in_dim": None, "guidance_embed": False, "depth_single_blocks": 0, "byt5": True,
    "use_cond_type_embedding": True, "vision_in_dim": 48,
}  # fmt: skip
IMAGE = {
    "vec_in_dim": None, "patch_size": [1, 1], "axes_dim": [32, 32], "byt5": True, "meanflow": True, "in_channels": 8,
    "out_channels": 8,
}  # fmt: skip


def inputs(size=(3, 6, 10), tokens=33, batch=1, channels=16, pooled=True, **extra):
    def make():
        kwargs = {name: value() if callable(value) else value for name, value in extra.items()}
        if pooled:
            kwargs |= {"y": randn(batch, 64, seed=3), "guidance": randn(batch, seed=4).abs() + 3}
        return (
            (randn(batch, channels, *size, seed=1), randn(batch, seed=5).abs() * 500, randn(batch, tokens, 64, seed=2)),
            kwargs,
        )

    return make


def text_mask():
    return (torch.arange(33)[None] < 29).long()


def residuals():
    return {
        "input": [randn(1, 45, 256, seed=20), None],
        "output": [randn(1, 45, 256, seed=21), randn(1, 45, 256, seed=22)],
    }


def sigmas():
    steps = torch.tensor([1.0, 0.7, 0.3, 0.0])
    return {"sigmas": steps[1:2], "sample_sigmas": steps}


def replacements():
    """Block replacements that look at all tokens."""

    def replace(args, extra):
        mean = args["img"].mean(1, keepdim=True)  # before the block, which writes into its input
        out = extra["original_block"](args)
        return {**out, "img": out["img"] + mean}

    return {"patches_replace": {"dit": {("double_block", 0): replace, ("single_block", 1): replace}}}


def frame_index():
    return torch.zeros(1)


CASES = [
    ModelCase("hunyuan-video: plain", build(), inputs()),
    ModelCase("hunyuan-video: batch 2, odd size", build(), inputs(size=(2, 6, 14), batch=2, tokens=7)),
    ModelCase("hunyuan-video: text mask", build(), inputs(attention_mask=text_mask)),
    ModelCase("hunyuan-video: ControlNet", build(), inputs(control=residuals)),
    ModelCase("hunyuan-video: guiding frame", build(), inputs(guiding_frame_index=frame_index)),
    ModelCase(
        "hunyuan-video: guiding frame, text mask and ControlNet",
        build(),
        inputs(guiding_frame_index=frame_index, attention_mask=text_mask, control=residuals),
    ),
    ModelCase(
        "hunyuan-video: reference latent",
        build(),
        inputs(ref_latent=lambda: randn(1, 16, 1, 6, 10, seed=8)),
        modes=("block", "auto"),
    ),
    ModelCase("hunyuan-video: replaced blocks", build(), inputs(transformer_options=replacements), modes=("auto",)),
    ModelCase("hunyuan-video 1.5: plain", build(**V15), inputs(pooled=False)),
    ModelCase(
        "hunyuan-video 1.5: byt5 and vision tokens",
        build(**V15),
        inputs(
            pooled=False,
            txt_byt5=lambda: randn(1, 11, 1472, seed=8),
            clip_fea=lambda: randn(1, 17, 48, seed=9),
            disable_time_r=True,
        ),  # fmt: skip
    ),
    ModelCase(
        "hunyuan-video 1.5: guiding frame",
        build(**V15),
        inputs(pooled=False, guiding_frame_index=frame_index, txt_byt5=lambda: randn(1, 11, 1472, seed=8)),
    ),
    ModelCase(
        "hunyuan-image: plain",
        build(**IMAGE),
        inputs(
            size=(9, 11),
            channels=8,
            pooled=False,
            guidance=lambda: torch.ones(1) * 4,
            transformer_options=sigmas,
            txt_byt5=lambda: randn(1, 11, 1472, seed=8),
        ),  # fmt: skip
    ),
    ModelCase(
        "hunyuan-video: patches around attention",
        build(),
        inputs(transformer_options=inner_patches.around_joint_attention),
    ),
]
