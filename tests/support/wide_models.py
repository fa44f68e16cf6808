"""Qwen-Image, Z-Image and Lumina 2 as small as ComfyUI's detection allows: the widths are fixed, the layers are not."""

import torch

from .random_weights import lora_weights, repeated_weights

QWEN_IMAGE_CONTEXT = 3584
Z_IMAGE_CONTEXT = 64
LUMINA2_CONTEXT = 64


def qwen_image_weights(seed: int) -> dict[str, torch.Tensor]:
    return repeated_weights(_qwen_image(), seed)


def qwen_image_lora_weights(rank: int, seed: int) -> dict[str, torch.Tensor]:
    return lora_weights(_shapes(_qwen_image()), "_mod.", rank, seed)


def qwen_image_controlnet_weights(seed: int) -> dict[str, torch.Tensor]:
    """InstantX's ControlNet with one block: its hint is a latent, so it needs a VAE."""
    import comfy.ldm.qwen_image.controlnet
    import comfy.ops

    return repeated_weights(
        comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(
            num_layers=1, device="meta", operations=comfy.ops.disable_weight_init
        ),
        seed,
    )


def z_image_weights(seed: int) -> dict[str, torch.Tensor]:
    return repeated_weights(_z_image(), seed)


def z_image_lora_weights(rank: int, seed: int) -> dict[str, torch.Tensor]:
    return lora_weights(_shapes(_z_image()), "layers.0.attention.", rank, seed)


def lumina2_weights(seed: int) -> dict[str, torch.Tensor]:
    return repeated_weights(_lumina2(), seed)


def lumina2_lora_weights(rank: int, seed: int) -> dict[str, torch.Tensor]:
    return lora_weights(_shapes(_lumina2()), "layers.0.attention.", rank, seed)


def z_image_control_weights(seed: int) -> dict[str, torch.Tensor]:
    """The Fun ControlNet of Z-Image with the fewest layers that ComfyUI's loader knows: three, and two refiners."""
    import comfy.ldm.lumina.controlnet
    import comfy.ops

    return repeated_weights(
        comfy.ldm.lumina.controlnet.ZImage_Control(
            n_control_layers=3,
            additional_in_dim=17,
            refiner_control=True,
            device="meta",
            operations=comfy.ops.disable_weight_init,
        ),
        seed,
    )


def _qwen_image():
    import comfy.ldm.qwen_image.model
    import comfy.ops

    return comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(
        num_layers=1, device="meta", operations=comfy.ops.disable_weight_init
    )


def _z_image():
    import comfy.ldm.lumina.model
    import comfy.ops

    return comfy.ldm.lumina.model.NextDiT(
        in_channels=16,
        dim=3840,
        n_layers=1,
        n_heads=30,
        n_kv_heads=30,
        ffn_dim_multiplier=8 / 3,
        qk_norm=True,
        cap_feat_dim=Z_IMAGE_CONTEXT,
        axes_dims=[32, 48, 48],
        axes_lens=[1536, 512, 512],
        rope_theta=256.0,
        z_image_modulation=True,
        time_scale=1000.0,
        pad_tokens_multiple=32,
        device="meta",
        operations=comfy.ops.disable_weight_init,
    )


def _lumina2():
    import comfy.ldm.lumina.model
    import comfy.ops

    return comfy.ldm.lumina.model.NextDiT(
        in_channels=16,
        dim=2304,
        n_layers=1,
        n_heads=24,
        n_kv_heads=8,
        ffn_dim_multiplier=4.0,
        qk_norm=True,
        cap_feat_dim=LUMINA2_CONTEXT,
        axes_dims=[32, 32, 32],
        axes_lens=[300, 512, 512],
        device="meta",
        operations=comfy.ops.disable_weight_init,
    )


def _shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}
