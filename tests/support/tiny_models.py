"""Tiny random models that pass ComfyUI's own detection.

Shapes come from ComfyUI's model classes, built on `meta`, so ComfyUI must be importable (support.comfy.import_comfy).
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from . import ltx2, tiny_controls, wide_models
from .quantised import quantised
from .random_weights import lora_weights, random_weights

FLUX_CONTEXT = 128  # width of the text conditioning of the tiny Flux
FLUX_POOLED = 64
SDXL_CONTEXT = 2048
SDXL_POOLED = 1280
SD3_CONTEXT = 96
SD3_POOLED = 2048  # the width that ComfyUI gives every ControlNet of SD 3.5
WAN_CONTEXT = 64
WAN_HEADS = 4
WAN_METADATA = {"config": json.dumps({"transformer": {"num_heads": WAN_HEADS, "text_dim": WAN_CONTEXT}})}
LTX2_CONTEXT = 128
LTX2_METADATA = {"config": json.dumps({"transformer": ltx2.CONFIG})}
WAN_CAUSAL_METADATA = {
    "config": json.dumps({"transformer": {"num_heads": WAN_HEADS, "text_dim": WAN_CONTEXT, "causal_ar": True}})
}
HUNYUAN_VIDEO_CONTEXT = 64
HUNYUAN_VIDEO_POOLED = 768


class ModelShelf:
    """Writes tiny models into ComfyUI's models folder, each once, and gives the names that ComfyUI lists."""

    def __init__(self, models: Path):
        self.models = models

    def flux(self, hidden: int = 256, double: int = 2, single: int = 3, guidance: bool = True, seed: int = 0) -> str:
        """FLUX.1-dev in small (schnell without `guidance`): hidden / 128 heads, context 128, pooled 64. fp32."""
        name = f"tiny-flux-{hidden}-{double}-{single}{'' if guidance else '-schnell'}-{seed}.safetensors"
        return self._file("diffusion_models", name, lambda: flux_weights(hidden, double, single, guidance, seed))

    def flux2(self, hidden: int = 256, double: int = 2, single: int = 2, seed: int = 0) -> str:
        """FLUX.2-dev in small: hidden / 128 heads, context 128, latents of 128 channels. fp32."""
        name = f"tiny-flux2-{hidden}-{double}-{single}-{seed}.safetensors"
        return self._file("diffusion_models", name, lambda: flux2_weights(hidden, double, single, seed))

    def quantised_flux(self, kind: str, hidden: int = 256, double: int = 2, single: int = 3) -> str:
        """flux(hidden, double, single) with the matrices of its blocks in a format of support.quantised."""
        name = f"tiny-flux-{kind}-{hidden}-{double}-{single}.safetensors"

        def make():
            return quantised(flux_weights(hidden, double, single, True, 0), "_blocks.", kind)

        return self._file("diffusion_models", name, make)

    def flux_lora(self, hidden: int = 256, double: int = 2, single: int = 3, rank: int = 4, seed: int = 1) -> str:
        """A LoRA on every attention and MLP matrix of flux(hidden, double, single); it moves the result visibly."""
        name = f"tiny-flux-lora-{hidden}-{double}-{single}-{rank}-{seed}.safetensors"
        return self._file("loras", name, lambda: flux_lora_weights(hidden, double, single, rank, seed))

    def flux_controlnet(self, hidden: int = 256, double: int = 1, single: int = 1, seed: int = 2) -> str:
        """An XLabs-style Flux ControlNet: takes an image, needs no VAE, adds to double and single blocks."""
        name = f"tiny-flux-controlnet-{hidden}-{double}-{single}-{seed}.safetensors"
        return self._file("controlnet", name, lambda: flux_controlnet_weights(hidden, double, single, seed))

    def sdxl(self, seed: int = 3) -> str:
        """An SDXL UNet with the transformer depths of Segmind Vega: context 2048, pooled 1280. fp16, 110 MB."""
        return self._file("diffusion_models", f"tiny-sdxl-{seed}.safetensors", lambda: sdxl_weights(seed))

    def sdxl_checkpoint(self, seed: int = 3) -> str:
        """sdxl(seed) in a checkpoint that holds nothing else: no text encoders, no VAE."""

        def make():
            return {f"model.diffusion_model.{key}": value for key, value in sdxl_weights(seed).items()}

        return self._file("checkpoints", f"tiny-sdxl-checkpoint-{seed}.safetensors", make)

    def sdxl_lora(self, rank: int = 4, seed: int = 9) -> str:
        """A LoRA on every matrix in the transformer blocks of sdxl(); it moves the result visibly."""
        name = f"tiny-sdxl-lora-{rank}-{seed}.safetensors"
        return self._file("loras", name, lambda: lora_weights(shapes_of(sdxl_unet()), ".transformer_", rank, seed))

    def sdxl_controlnet(self, seed: int = 10) -> str:
        """A ControlNet for sdxl(): takes an image, needs no VAE. fp16, 60 MB."""
        name = f"tiny-sdxl-controlnet-{seed}.safetensors"
        return self._file("controlnet", name, lambda: tiny_controls.sdxl_controlnet_weights(seed))

    def sd3_checkpoint(self, depth: int = 4, seed: int = 4) -> str:
        """sd3(depth, seed) in a checkpoint that holds nothing else: no text encoders, no VAE."""

        def make():
            return {f"model.diffusion_model.{key}": value for key, value in sd3_weights(depth, False, seed).items()}

        return self._file("checkpoints", f"tiny-sd3-checkpoint-{depth}-{seed}.safetensors", make)

    def sd3_lora(self, depth: int = 4, rank: int = 4, seed: int = 11) -> str:
        """A LoRA on every matrix in the blocks of sd3(depth); it moves the result visibly."""
        name = f"tiny-sd3-lora-{depth}-{rank}-{seed}.safetensors"
        return self._file(
            "loras", name, lambda: lora_weights(shapes_of(sd3_model(depth, False)), "blocks.", rank, seed)
        )

    def sd3_controlnet(self, depth: int = 4, layers: int = 2, seed: int = 12) -> str:
        """A ControlNet as those of SD 3.5 for sd3(depth); its hint is a latent, so it needs image_vae()."""
        name = f"tiny-sd3-controlnet-{depth}-{layers}-{seed}.safetensors"
        return self._file(
            "controlnet", name, lambda: tiny_controls.sd3_controlnet_weights(depth, layers, SD3_POOLED, seed)
        )

    def image_vae(self, channels: int = 16, seed: int = 13) -> str:
        """A VAE for images, latents of so many channels: 4 for SDXL, 16 for SD3, Flux and Z-Image."""
        name = f"tiny-image-vae-{channels}-{seed}.safetensors"
        return self._file("vae", name, lambda: tiny_controls.image_vae_weights(channels, seed))

    def video_vae(self, dim: int = 8, seed: int = 14) -> str:
        """The VAE of Wan 2.1 and Qwen-Image with `dim` channels instead of 96."""
        return self._file(
            "vae", f"tiny-video-vae-{dim}-{seed}.safetensors", lambda: tiny_controls.video_vae_weights(dim, seed)
        )

    def qwen_image(self, seed: int = 15) -> str:
        """Qwen-Image with one layer of full width: context 3584, latents of 16 channels. fp8, 380 MB."""
        name = f"small-qwen-image-{seed}.safetensors"
        return self._file("diffusion_models", name, lambda: wide_models.qwen_image_weights(seed))

    def qwen_image_lora(self, rank: int = 4, seed: int = 16) -> str:
        """A LoRA on the attention of qwen_image(); it moves the result visibly."""
        name = f"small-qwen-image-lora-{rank}-{seed}.safetensors"
        return self._file("loras", name, lambda: wide_models.qwen_image_lora_weights(rank, seed))

    def qwen_image_controlnet(self, seed: int = 17) -> str:
        """A ControlNet for qwen_image() with one layer; its hint is a latent, so it needs video_vae(). fp8, 370 MB."""
        name = f"small-qwen-image-controlnet-{seed}.safetensors"
        return self._file("controlnet", name, lambda: wide_models.qwen_image_controlnet_weights(seed))

    def z_image(self, seed: int = 18) -> str:
        """Z-Image with one layer and its four refiners, of full width: context 64. fp8, 900 MB."""
        name = f"small-z-image-{seed}.safetensors"
        return self._file("diffusion_models", name, lambda: wide_models.z_image_weights(seed))

    def z_image_lora(self, rank: int = 4, seed: int = 19) -> str:
        """A LoRA on the attention of z_image(); it moves the result visibly."""
        name = f"small-z-image-lora-{rank}-{seed}.safetensors"
        return self._file("loras", name, lambda: wide_models.z_image_lora_weights(rank, seed))

    def z_image_control(self, seed: int = 20) -> str:
        """The model patch that is Z-Image's ControlNet, for ModelPatchLoader; it needs image_vae(). fp8, 1 GB."""
        name = f"small-z-image-control-{seed}.safetensors"
        return self._file("model_patches", name, lambda: wide_models.z_image_control_weights(seed))

    def delete(self, prefix: str) -> None:
        """Take every file whose name starts with `prefix` from the disk."""
        for path in self.models.glob(f"*/{prefix}*"):
            path.unlink()

    def sd3(self, depth: int = 4, medium: bool = False, seed: int = 4) -> str:
        """SD 3.5 in small, `medium` with self-attention in its first blocks: depth blocks and heads, hidden 64 × depth.

        Context 96, pooled 2048, at most 256 × 256 pixels. fp32.
        """
        name = f"tiny-sd3-{depth}{'-medium' if medium else ''}-{seed}.safetensors"
        return self._file("diffusion_models", name, lambda: sd3_weights(depth, medium, seed))

    def wan(self, dim: int = 256, layers: int = 2, seed: int = 5) -> str:
        """Wan 2.1 / 2.2 text to video in small: 4 heads, context 64, latents of 16 channels. fp32.

        Shapes do not tell ComfyUI the heads nor the width of the text, so the file's metadata do.
        """
        name = f"tiny-wan-{dim}-{layers}-{seed}.safetensors"
        return self._file("diffusion_models", name, lambda: wan_weights(dim, layers, seed), WAN_METADATA)

    def wan_lora(self, dim: int = 256, layers: int = 2, rank: int = 4, seed: int = 6) -> str:
        """A LoRA on every matrix in the blocks of wan(dim, layers); it moves the result visibly."""
        name = f"tiny-wan-lora-{dim}-{layers}-{rank}-{seed}.safetensors"
        return self._file("loras", name, lambda: lora_weights(shapes_of(wan_model(dim, layers)), "blocks.", rank, seed))

    def wan_vace(self, dim: int = 256, layers: int = 2, seed: int = 23) -> str:
        """Wan VACE in small, one of its control blocks for each two blocks; else as wan(dim, layers)."""
        name = f"tiny-wan-vace-{dim}-{layers}-{seed}.safetensors"
        return self._file("diffusion_models", name, lambda: wan_vace_weights(dim, layers, seed), WAN_METADATA)

    def wan_i2v(self, dim: int = 256, layers: int = 2, seed: int = 24) -> str:
        """Wan image to video in small: 36 channels in, 1280 wide CLIP vision features; else as wan(dim, layers)."""
        name = f"tiny-wan-i2v-{dim}-{layers}-{seed}.safetensors"

        def make():
            return random_weights(wan_model(dim, layers, model_type="i2v", in_dim=36), seed)

        return self._file("diffusion_models", name, make, WAN_METADATA)

    def wan_causal(self, dim: int = 256, layers: int = 2, seed: int = 29) -> str:
        """Wan 2.1 for autoregressive sampling (Self-Forcing) in small; else as wan(dim, layers)."""
        name = f"tiny-wan-causal-{dim}-{layers}-{seed}.safetensors"
        return self._file("diffusion_models", name, lambda: wan_weights(dim, layers, seed), WAN_CAUSAL_METADATA)

    def hypernetwork(self, width: int = SDXL_CONTEXT, seed: int = 30) -> str:
        """A hypernetwork of one layer on keys and values that are `width` wide."""
        name = f"tiny-hypernetwork-{width}-{seed}.pt"
        path = self.models / "hypernetworks" / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = torch.Generator().manual_seed(seed)
            layers = [
                {
                    "linear.0.weight": 0.02 * torch.randn(width, width, generator=noise) / width**0.5,
                    "linear.0.bias": torch.zeros(width),
                }
                for _ in range(2)
            ]
            torch.save({width: layers, "activation_func": "linear", "is_layer_norm": False}, path)
        return name

    def ltx2(self, layers: int = 2, seed: int = 25) -> str:
        """LTX-2 in small: video of 128 channels and sound, 4 heads each, context 128. fp32."""
        name = f"tiny-ltx2-{layers}-{seed}.safetensors"
        return self._file("diffusion_models", name, lambda: ltx2.weights(layers, seed), LTX2_METADATA)

    def ltx2_lora(self, layers: int = 2, rank: int = 4, seed: int = 26) -> str:
        """A LoRA on every attention matrix of ltx2(layers); it moves the result visibly."""
        name = f"tiny-ltx2-lora-{layers}-{rank}-{seed}.safetensors"
        return self._file("loras", name, lambda: lora_weights(shapes_of(ltx2.model(layers)), ".attn", rank, seed))

    def lumina2(self, seed: int = 27) -> str:
        """Lumina 2 with one layer and its four refiners, of full width: context 64. fp8, 400 MB."""
        name = f"small-lumina2-{seed}.safetensors"
        return self._file("diffusion_models", name, lambda: wide_models.lumina2_weights(seed))

    def lumina2_lora(self, rank: int = 4, seed: int = 28) -> str:
        """A LoRA on the attention of lumina2(); it moves the result visibly."""
        name = f"small-lumina2-lora-{rank}-{seed}.safetensors"
        return self._file("loras", name, lambda: wide_models.lumina2_lora_weights(rank, seed))

    def hunyuan_video(self, hidden: int = 256, double: int = 1, single: int = 2, seed: int = 8) -> str:
        """HunyuanVideo in small: hidden / 128 heads, context 64, pooled 768, latents of 16 channels. fp32."""
        name = f"tiny-hunyuan-video-{hidden}-{double}-{single}-{seed}.safetensors"
        return self._file("diffusion_models", name, lambda: hunyuan_video_weights(hidden, double, single, seed))

    def sparse_flux(self, hidden: int, double: int, single: int) -> str:
        """A Flux of any size in fp32 whose data are a hole in the file: zeros that take no room on the disk."""
        name = f"sparse-flux-{hidden}-{double}-{single}.safetensors"
        path = self.models / "diffusion_models" / name
        if not path.is_file():
            write_sparse(path, flux_shapes(hidden, double, single))
        return name

    def flux_checkpoint(self, hidden: int = 256, double: int = 2, single: int = 3) -> str:
        """flux(hidden, double, single) in a checkpoint that holds nothing else: no text encoder, no VAE."""
        name = f"tiny-flux-checkpoint-{hidden}-{double}-{single}.safetensors"

        def make():
            weights = flux_weights(hidden, double, single, True, 0)
            return {f"model.diffusion_model.{key}": value for key, value in weights.items()}

        return self._file("checkpoints", name, make)

    def flux_diffusers(self, hidden: int = 256, double: int = 2, single: int = 3, shards: int = 1) -> str:
        """flux(hidden, double, single) as a folder in diffusers layout, its transformer in so many files."""
        name = f"tiny-flux-diffusers-{hidden}-{double}-{single}-{shards}"
        folder = self.models / "diffusers" / name
        if not (folder / "model_index.json").is_file():
            write_flux_diffusers(folder, hidden, double, single, shards)
        return name

    def _file(self, folder: str, name: str, make, metadata: dict[str, str] | None = None) -> str:
        path = self.models / folder / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            save_file(make(), partial, metadata)
            partial.rename(path)
        return name


def flux_config(hidden: int, double: int, single: int, guidance: bool) -> dict:
    return {
        "in_channels": 16,
        "out_channels": 16,
        "vec_in_dim": FLUX_POOLED,
        "context_in_dim": FLUX_CONTEXT,
        "hidden_size": hidden,
        "mlp_ratio": 4.0,
        "num_heads": hidden // 128,
        "depth": double,
        "depth_single_blocks": single,
        "axes_dim": [16, 56, 56],
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": guidance,
        "txt_ids_dims": [],
    }


def flux_shapes(hidden: int, double: int, single: int) -> dict[str, torch.Size]:
    import comfy.ldm.flux.model
    import comfy.ops

    config = flux_config(hidden, double, single, guidance=True)
    model = comfy.ldm.flux.model.Flux(**config, device="meta", operations=comfy.ops.disable_weight_init)
    return {published_name(name): value.shape for name, value in model.state_dict().items()}


def write_sparse(path: Path, shapes: dict[str, torch.Size]) -> None:
    """A safetensors file of fp32 zeros, its data a hole."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * shape.numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def flux_weights(hidden: int, double: int, single: int, guidance: bool, seed: int) -> dict[str, torch.Tensor]:
    import comfy.ldm.flux.model
    import comfy.ops

    config = flux_config(hidden, double, single, guidance)
    model = comfy.ldm.flux.model.Flux(**config, device="meta", operations=comfy.ops.disable_weight_init)
    return {published_name(name): value for name, value in random_weights(model, seed).items()}


def flux2_weights(hidden: int, double: int, single: int, seed: int) -> dict[str, torch.Tensor]:
    import comfy.ldm.flux.model
    import comfy.ops

    config = flux_config(hidden, double, single, guidance=True) | {
        "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "axes_dim": [32, 32, 32, 32], "theta": 2000,
        "patch_size": 1, "qkv_bias": False, "txt_ids_dims": [3], "global_modulation": True, "mlp_silu_act": True,
        "ops_bias": False, "mlp_ratio": 3.0,
    }  # fmt: skip
    model = comfy.ldm.flux.model.Flux(**config, device="meta", operations=comfy.ops.disable_weight_init)
    return {published_name(name): value for name, value in random_weights(model, seed).items()}


def flux_controlnet_weights(hidden: int, double: int, single: int, seed: int) -> dict[str, torch.Tensor]:
    import comfy.ldm.flux.controlnet
    import comfy.ops

    config = flux_config(hidden, double, single, guidance=True)
    model = comfy.ldm.flux.controlnet.ControlNetFlux(**config, device="meta", operations=comfy.ops.disable_weight_init)
    return {published_name(name): value for name, value in random_weights(model, seed).items()}


def published_name(name: str) -> str:
    """Flux files say `query_norm.scale` where ComfyUI's module says `query_norm.weight`."""
    return f"{name.removesuffix('weight')}scale" if name.endswith("_norm.weight") else name


def flux_lora_weights(hidden: int, double: int, single: int, rank: int, seed: int) -> dict[str, torch.Tensor]:
    return lora_weights(flux_shapes(hidden, double, single), "_blocks.", rank, seed)


def write_flux_diffusers(folder: Path, hidden: int, double: int, single: int, shards: int) -> None:
    """Write flux_weights under diffusers' names: fused matrices cut, the last layer's shift and scale exchanged."""
    transformer = folder / "transformer"
    transformer.mkdir(parents=True, exist_ok=True)
    weights = flux_diffusers_weights(hidden, double, single)
    names = sorted(weights)
    if shards == 1:
        save_file(weights, transformer / "diffusion_pytorch_model.safetensors")
    else:
        files = {name: f"part-{place % shards + 1}-of-{shards}.safetensors" for place, name in enumerate(names)}
        for file in set(files.values()):
            save_file({name: weights[name] for name in names if files[name] == file}, transformer / file)
        index = {"metadata": {}, "weight_map": files}
        (transformer / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (transformer / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))


def flux_diffusers_weights(hidden: int, double: int, single: int) -> dict[str, torch.Tensor]:
    import comfy.utils

    weights = flux_weights(hidden, double, single, True, 0)
    names = comfy.utils.flux_to_diffusers({"depth": double, "depth_single_blocks": single, "hidden_size": hidden})
    made = {}
    for diffusers_name, target in names.items():
        name, *rest = target if isinstance(target, tuple) else (target,)
        name = published_name(name)
        if name not in weights or ".linear_in." in diffusers_name or ".linear_out." in diffusers_name:
            continue
        value = weights[name]
        if rest and rest[0] is not None:
            value = value.narrow(*rest[0])
        if len(rest) > 1:
            value = rest[1](value)
        made[diffusers_name] = value.clone().contiguous()
    return made


def shapes_of(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def sdxl_weights(seed: int) -> dict[str, torch.Tensor]:
    return random_weights(sdxl_unet(), seed, torch.float16)


def sdxl_unet() -> torch.nn.Module:
    import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
    import comfy.ops

    return openaimodel.UNetModel(
        **tiny_controls.SDXL_BLOCKS,
        out_channels=4,
        transformer_depth_output=[0, 0, 0, 1, 1, 1, 2, 2, 2],
        device="meta",
        operations=comfy.ops.disable_weight_init,
    )


def sd3_weights(depth: int, medium: bool, seed: int) -> dict[str, torch.Tensor]:
    return random_weights(sd3_model(depth, medium), seed)


def sd3_model(depth: int, medium: bool) -> torch.nn.Module:
    import comfy.ldm.modules.diffusionmodules.mmdit as mmdit
    import comfy.ops

    hidden = 64 * depth
    return mmdit.OpenAISignatureMMDITWrapper(
        input_size=None,
        in_channels=16,
        depth=depth,
        adm_in_channels=SD3_POOLED,
        context_embedder_config={
            "target": "torch.nn.Linear",
            "params": {"in_features": SD3_CONTEXT, "out_features": hidden},
        },
        qk_norm="rms",
        pos_embed_max_size=16,
        num_patches=16 * 16,
        x_block_self_attn_layers=list(range(depth // 2)) if medium else [],
        device="meta",
        operations=comfy.ops.disable_weight_init,
    )


def wan_weights(dim: int, layers: int, seed: int) -> dict[str, torch.Tensor]:
    return random_weights(wan_model(dim, layers), seed)


def wan_vace_weights(dim: int, layers: int, seed: int) -> dict[str, torch.Tensor]:
    return random_weights(wan_model(dim, layers, "VaceWanModel", vace_layers=layers // 2, vace_in_dim=96), seed)


def wan_model(dim: int, layers: int, kind: str = "WanModel", **extra) -> torch.nn.Module:
    import comfy.ldm.wan.model
    import comfy.ops

    return getattr(comfy.ldm.wan.model, kind)(
        out_dim=16,
        dim=dim,
        ffn_dim=2 * dim,
        text_dim=WAN_CONTEXT,
        num_heads=WAN_HEADS,
        num_layers=layers,
        device="meta",
        operations=comfy.ops.disable_weight_init,
        **{"model_type": "t2v", "in_dim": 16, **extra},
    )


def hunyuan_video_weights(hidden: int, double: int, single: int, seed: int) -> dict[str, torch.Tensor]:
    import comfy.ldm.hunyuan_video.model
    import comfy.ops

    model = comfy.ldm.hunyuan_video.model.HunyuanVideo(
        in_channels=16,
        patch_size=[1, 2, 2],
        out_channels=16,
        vec_in_dim=HUNYUAN_VIDEO_POOLED,
        context_in_dim=HUNYUAN_VIDEO_CONTEXT,
        hidden_size=hidden,
        mlp_ratio=4.0,
        num_heads=hidden // 128,
        depth=double,
        depth_single_blocks=single,
        axes_dim=[16, 56, 56],
        theta=256,
        qkv_bias=True,
        guidance_embed=True,
        byt5=False,
        meanflow=False,
        use_cond_type_embedding=False,
        vision_in_dim=None,
        meanflow_sum=False,
        device="meta",
        operations=comfy.ops.disable_weight_init,
    )
    return random_weights(model, seed)
