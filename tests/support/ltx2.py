"""LTX-2 in small; shapes do not tell ComfyUI its heads, so the file's metadata do."""

import torch

from .random_weights import random_weights

CONFIG = {
    "in_channels": 128,
    "out_channels": 128,
    "audio_in_channels": 128,
    "cross_attention_dim": 256,
    "audio_cross_attention_dim": 128,
    "attention_head_dim": 64,
    "audio_attention_head_dim": 32,
    "num_attention_heads": 4,
    "audio_num_attention_heads": 4,
    "caption_channels": 64,
    "connector_attention_head_dim": 16,
    "connector_num_attention_heads": 4,
    "connector_num_layers": 1,
    "rope_type": "split",
}


def model(layers: int) -> torch.nn.Module:
    import comfy.ldm.lightricks.av_model
    import comfy.ops

    return comfy.ldm.lightricks.av_model.LTXAVModel(
        **CONFIG, num_layers=layers, device="meta", operations=comfy.ops.disable_weight_init
    )


def weights(layers: int, seed: int) -> dict[str, torch.Tensor]:
    return random_weights(model(layers), seed)
