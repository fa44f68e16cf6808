"""LoRA files of other kinds than low rank, through the real server: the same latent as stock ComfyUI's."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.compare import TOLERANCE, both
from support.parity import relative_error
from support.tiny_models import flux_shapes

SIZES = (256, 2, 3)


def dora(models) -> dict[str, torch.Tensor]:
    """Low rank, with a magnitude for each row."""
    weights = load_file(models.models / "loras" / models.flux_lora(*SIZES))
    shapes = flux_shapes(*SIZES)
    for name in [name for name in weights if name.endswith(("lora_up.weight", "lora_B.weight"))]:
        base = name.rsplit(".", 2)[0]
        rows = shapes[f"{base.removeprefix('diffusion_model.')}.weight"][0]
        weights[f"{base}.dora_scale"] = torch.rand(rows, 1, generator=torch.Generator().manual_seed(4)) + 0.5
    return weights


def lokr(models) -> dict[str, torch.Tensor]:
    """Kronecker products."""
    random = torch.Generator().manual_seed(5)
    weights = {}
    for name, shape in flux_shapes(*SIZES).items():
        base = name.removesuffix(".weight")
        if "_blocks." in name and name != base and len(shape) == 2:
            weights[f"diffusion_model.{base}.lokr_w1"] = torch.randn(4, 4, generator=random) * 0.1
            weights[f"diffusion_model.{base}.lokr_w2"] = (
                torch.randn(shape[0] // 4, shape[1] // 4, generator=random) * 0.05
            )
    return weights


@pytest.mark.parametrize("make", [dora, lokr], ids=["DoRA", "LoKr"])
def test_the_latent_is_stock_comfyui_s(client, models, make):
    name = f"tiny-flux-{make.__name__}.safetensors"
    save_file(make(models), models.models / "loras" / name)

    def build(graph, model, strength=0.8):
        adapted = graph.add("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength)
        latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
        return graph.sample("KSampler", adapted, graph.flux_conditioning(1), latent)

    stock, found = both(client, models, build)
    assert relative_error(found, stock) <= TOLERANCE
    plain, _ = both(client, models, lambda graph, model: build(graph, model, 0.0))
    assert relative_error(stock, plain) > 100 * TOLERANCE
