"""Tiny random ControlNets for the tiny models, and VAEs for those whose hint is a latent."""

import torch

from .random_weights import random_weights

SDXL_BLOCKS = {
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 1,
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "legacy": False,
}


def sdxl_controlnet_weights(seed: int) -> dict[str, torch.Tensor]:
    import comfy.cldm.cldm
    import comfy.ops

    model = comfy.cldm.cldm.ControlNet(
        **SDXL_BLOCKS, hint_channels=3, device="meta", operations=comfy.ops.disable_weight_init
    )
    return random_weights(model, seed, torch.float16)


def sd3_controlnet_weights(depth: int, layers: int, pooled: int, seed: int) -> dict[str, torch.Tensor]:
    """As those of SD 3.5, for a model of `depth` blocks."""
    import comfy.cldm.dit_embedder
    import comfy.ops

    model = comfy.cldm.dit_embedder.ControlNetEmbedder(
        img_size=None,
        patch_size=2,
        in_chans=16,
        attention_head_dim=64,
        num_attention_heads=depth,
        adm_in_channels=pooled,
        num_layers=layers,
        main_model_double=depth,
        double_y_emb=False,
        device="meta",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    return random_weights(model, seed)


def image_vae_weights(channels: int, seed: int) -> dict[str, torch.Tensor]:
    """A TAESD, which ComfyUI loads as a VAE: 8 × 8 pixels to one latent."""
    import comfy.taesd.taesd

    with torch.device("meta"):
        model = comfy.taesd.taesd.TAESD(latent_channels=channels)
    return {**random_weights(model, seed), "vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}


def video_vae_weights(dim: int, seed: int) -> dict[str, torch.Tensor]:
    """The VAE of Wan 2.1 and Qwen-Image, `dim` channels instead of 96: 4 frames and 8 × 8 pixels to one latent."""
    import comfy.ldm.wan.vae

    with torch.device("meta"):
        model = comfy.ldm.wan.vae.WanVAE(dim=dim, z_dim=16, temperal_downsample=[False, True, True])
    return random_weights(model, seed)
