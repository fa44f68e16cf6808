"""Flux, a LoRA and a ControlNet for it, of a real Flux's shapes with random bf16 weights."""

from dataclasses import dataclass
from pathlib import Path

import torch
from support.tiny_models import flux_config, published_name

from ..weights import write_random


@dataclass(frozen=True)
class FluxShape:
    hidden: int
    double: int
    single: int
    context: int
    pooled: int

    def config(self, double: int, single: int) -> dict:
        config = flux_config(self.hidden, double, single, guidance=True)
        return {**config, "context_in_dim": self.context, "vec_in_dim": self.pooled}


FLUX_DEV = FluxShape(hidden=3072, double=19, single=38, context=4096, pooled=768)
TINY = FluxShape(hidden=256, double=2, single=3, context=128, pooled=64)
CONTROLNET_DOUBLE, LORA_RANK = 2, 16


@dataclass(frozen=True)
class ModelFiles:
    """Names as ComfyUI's loader nodes list them; `bytes` of all together."""

    unet: str
    lora: str
    controlnet: str
    bytes: int


def make_model_files(models: Path, shape: FluxShape, device: str) -> ModelFiles:
    """Write Flux, a LoRA on all linear layers of its blocks and an XLabs-style ControlNet below `models`."""
    import comfy.ldm.flux.controlnet
    import comfy.ldm.flux.model
    import comfy.ops

    on_meta = {"device": "meta", "operations": comfy.ops.disable_weight_init}
    flux = shapes_of(comfy.ldm.flux.model.Flux(**shape.config(shape.double, shape.single), **on_meta))
    controlnet = comfy.ldm.flux.controlnet.ControlNetFlux(**shape.config(CONTROLNET_DOUBLE, 0), **on_meta)
    name = f"random-flux-{shape.hidden}-{shape.double}-{shape.single}"
    written = [
        (models / "diffusion_models" / f"{name}.safetensors", flux, 0),
        (models / "loras" / f"{name}-lora.safetensors", lora_shapes(flux), 1),
        (models / "controlnet" / f"{name}-controlnet.safetensors", shapes_of(controlnet), 2),
    ]
    size = sum(write_random(*file, device) for file in written)
    return ModelFiles(*(path.name for path, _, _ in written), size)


def shapes_of(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {published_name(name): value.shape for name, value in module.state_dict().items()}


def lora_shapes(flux: dict[str, torch.Size]) -> dict[str, torch.Size]:
    shapes = {}
    for name, shape in flux.items():
        if len(shape) == 2 and "_blocks." in name:
            target = f"diffusion_model.{name.removesuffix('.weight')}"
            shapes[f"{target}.lora_up.weight"] = torch.Size((shape[0], LORA_RANK))
            shapes[f"{target}.lora_down.weight"] = torch.Size((LORA_RANK, shape[1]))
    return shapes
