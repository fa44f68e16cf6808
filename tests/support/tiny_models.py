"""Tiny random models that pass ComfyUI's own detection.

Shapes come from ComfyUI's model classes, built on `meta`, so ComfyUI must be importable (support.comfy.import_comfy).
Weights are random with fixed seeds, never zero, and scaled so that activations stay of order one.
"""

import json
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file

FLUX_CONTEXT = 128  # width of the text conditioning of the tiny Flux
FLUX_POOLED = 64
SDXL_CONTEXT = 2048
SDXL_POOLED = 1280
SD3_CONTEXT = 96
SD3_POOLED = 64
WAN_CONTEXT = 64
WAN_HEADS = 4
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

    def sd3(self, depth: int = 4, medium: bool = False, seed: int = 4) -> str:
        """SD 3.5 in small, `medium` with self-attention in its first blocks: depth blocks and heads, hidden 64 × depth.

        Context 96, pooled 64, at most 256 × 256 pixels. fp32.
        """
        name = f"tiny-sd3-{depth}{'-medium' if medium else ''}-{seed}.safetensors"
        return self._file("diffusion_models", name, lambda: sd3_weights(depth, medium, seed))

    def wan(self, dim: int = 256, layers: int = 2, seed: int = 5) -> str:
        """Wan 2.1 / 2.2 text to video in small: 4 heads, context 64, latents of 16 channels. fp32.

        Shapes do not tell ComfyUI the heads nor the width of the text, so the file's metadata do.
        """
        name = f"tiny-wan-{dim}-{layers}-{seed}.safetensors"
        metadata = {"config": json.dumps({"transformer": {"num_heads": WAN_HEADS, "text_dim": WAN_CONTEXT}})}
        return self._file("diffusion_models", name, lambda: wan_weights(dim, layers, seed), metadata)

    def wan_lora(self, dim: int = 256, layers: int = 2, rank: int = 4, seed: int = 6) -> str:
        """A LoRA on every matrix in the blocks of wan(dim, layers); it moves the result visibly."""
        name = f"tiny-wan-lora-{dim}-{layers}-{rank}-{seed}.safetensors"
        return self._file("loras", name, lambda: lora_weights(wan_weights(dim, layers, 0), "blocks.", rank, seed))

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


def random_weights(module: torch.nn.Module, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Random values for every parameter of a module on `meta`.

    Matrices and kernels: normal / sqrt(fan in). Norm weights: around one. Biases and the like: 0.1 × normal.
    """
    return {name: random_tensor(name, value.shape, seed).to(dtype) for name, value in module.state_dict().items()}


def random_tensor(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """Depends on `name` and `seed` only, so models with blocks added keep the weights that they share."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))  # 32 bits count on a CPU
    value = torch.randn(shape, generator=generator)
    if len(shape) >= 2:
        return value / shape[1:].numel() ** 0.5
    return 1 + 0.1 * value if name.endswith(("weight", "scale")) else 0.1 * value


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
    return lora_weights(flux_weights(hidden, double, single, True, seed), "_blocks.", rank, seed)


def lora_weights(weights: dict[str, torch.Tensor], where: str, rank: int, seed: int) -> dict[str, torch.Tensor]:
    """A LoRA on every matrix of `weights` that has `where` in its name."""
    lora = {}
    for name, weight in weights.items():
        if weight.ndim == 2 and where in name:
            target = f"diffusion_model.{name.removesuffix('.weight')}"
            for part, shape in (("lora_up", (weight.shape[0], rank)), ("lora_down", (rank, weight.shape[1]))):
                key = f"{target}.{part}.weight"
                lora[key] = random_tensor(key, torch.Size(shape), seed)
            lora[f"{target}.alpha"] = torch.tensor(float(rank) / 4)
    return lora


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


def sdxl_weights(seed: int) -> dict[str, torch.Tensor]:
    import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
    import comfy.ops

    model = openaimodel.UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[2, 2, 2],
        channel_mult=[1, 1, 1],
        transformer_depth=[0, 0, 1, 1, 2, 2],
        transformer_depth_output=[0, 0, 0, 1, 1, 1, 2, 2, 2],
        transformer_depth_middle=1,
        num_head_channels=64,
        use_spatial_transformer=True,
        use_linear_in_transformer=True,
        context_dim=SDXL_CONTEXT,
        num_classes="sequential",
        adm_in_channels=2816,
        legacy=False,
        device="meta",
        operations=comfy.ops.disable_weight_init,
    )
    return random_weights(model, seed, torch.float16)


def sd3_weights(depth: int, medium: bool, seed: int) -> dict[str, torch.Tensor]:
    import comfy.ldm.modules.diffusionmodules.mmdit as mmdit
    import comfy.ops

    hidden = 64 * depth
    model = mmdit.OpenAISignatureMMDITWrapper(
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
    return random_weights(model, seed)


def wan_weights(dim: int, layers: int, seed: int) -> dict[str, torch.Tensor]:
    import comfy.ldm.wan.model
    import comfy.ops

    model = comfy.ldm.wan.model.WanModel(
        model_type="t2v",
        in_dim=16,
        out_dim=16,
        dim=dim,
        ffn_dim=2 * dim,
        text_dim=WAN_CONTEXT,
        num_heads=WAN_HEADS,
        num_layers=layers,
        device="meta",
        operations=comfy.ops.disable_weight_init,
    )
    return random_weights(model, seed)


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
