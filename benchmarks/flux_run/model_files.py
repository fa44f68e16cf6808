"""Model files of a real Flux's shapes with random bf16 weights, made on the device and streamed to the file.

The rules for random values are those of the tiny test models: never zero, activations of order one.
"""

import json
import os
import shutil
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from support.tiny_models import flux_config, published_name

BYTES = 2  # bf16
WRITERS = 6
ROOM = 1.1


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


def random_tensor(name: str, shape: torch.Size, seed: int, device: str) -> torch.Tensor:
    """Matrices and kernels: normal / sqrt(fan in). Norm weights: around one. Biases: 0.1 × normal."""
    generator = torch.Generator(device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    value = torch.randn(shape, generator=generator, device=device)
    if len(shape) >= 2:
        return value / shape[1:].numel() ** 0.5
    return 1 + 0.1 * value if name.endswith(("weight", "scale")) else 0.1 * value


def write_random(path: Path, shapes: dict[str, torch.Size], seed: int, device: str) -> int:
    """Write a safetensors file of random bf16 tensors, several at a time; gives its size in bytes."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + shape.numel() * BYTES
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    start = 8 + len(head)
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(start + end)
        file.flush()

        def write(name: str) -> None:
            value = random_tensor(name, shapes[name], seed, device).to(torch.bfloat16).cpu()
            write_all(file.fileno(), memoryview(value.view(-1).view(torch.uint8).numpy()), start + begin_of[name])

        begin_of = {name: about["data_offsets"][0] for name, about in header.items()}
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(write, shapes))
    partial.rename(path)
    return start + end


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def working_directory(needed: int) -> Path:
    """A new directory with room for `needed` bytes: in memory where it fits, else in the usual temporary directory."""
    memory = Path("/dev/shm")
    fits = memory.is_dir() and shutil.disk_usage(memory).free > needed * ROOM
    return Path(tempfile.mkdtemp(prefix="xdit-flux-", dir=memory if fits else None))
