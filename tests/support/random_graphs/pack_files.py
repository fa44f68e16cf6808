"""Files that some packs' loaders read, tiny and random, in the base directory of a server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..random_weights import random_tensor
from ..tiny_models import SDXL_CONTEXT, flux_weights

VISION, TOKENS, LAYERS = 1280, 4, 70


def ipadapter(base: Path, site: str) -> None:
    """An IPAdapter for the tiny SDXL, and an image that was encoded for it."""
    shapes = {"proj.weight": (TOKENS * SDXL_CONTEXT, VISION), "proj.bias": (TOKENS * SDXL_CONTEXT,)}
    shapes |= {"norm.weight": (SDXL_CONTEXT,), "norm.bias": (SDXL_CONTEXT,)}
    weights = {f"image_proj.{name}": random_tensor(name, torch.Size(shape), 1) for name, shape in shapes.items()}
    for layer in range(LAYERS):
        for part in ("to_k_ip", "to_v_ip"):
            name = f"{2 * layer + 1}.{part}.weight"
            weights[f"ip_adapter.{name}"] = random_tensor(name, torch.Size((320, SDXL_CONTEXT)), 1)
    folder = base / "models" / "ipadapter"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() for name, value in weights.items()}, folder / "tiny-ipadapter.safetensors")
    image = torch.randn(1, VISION, generator=torch.Generator().manual_seed(1))
    torch.save(image, base / "input" / "tiny.ipadpt")


def gguf(base: Path, site: str) -> None:
    """The tiny Flux as GGUF, its large matrices in Q8_0."""
    sys.path.append(site)
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    path = base / "models" / "diffusion_models" / "tiny-flux.gguf"
    writer = GGUFWriter(path, "flux")
    for name, value in flux_weights(256, 2, 3, True, 0).items():
        data, kind = value.numpy(), GGMLQuantizationType.F32
        if value.dim() == 2 and "_blocks." in name:
            kind = GGMLQuantizationType.Q8_0
            data = quants.quantize(data, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


MAKERS: dict[str, Callable[[Path, str], None]] = {
    "cubiq/ComfyUI_IPAdapter_plus": ipadapter,
    "city96/ComfyUI-GGUF": gguf,
}
"""Pack → what makes its files: (base directory, folder with Python packages)."""
