"""How far a tiny Flux with random weights comes from exact sampling, by sampler, steps and warm-up."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..comfy_client import ComfyClient
from ..parity import relative_error
from ..prompts import Graph
from ..tiny_models import ModelShelf

SAMPLERS = ("euler", "heun", "dpmpp_2m", "dpmpp_2m_sde")
STEPS = (4, 8, 16, 32)
WARMUPS: dict[str, Callable[[int], int]] = {
    "1": lambda steps: 1,
    "half": lambda steps: steps // 2,
    "all but one": lambda steps: steps - 1,
}
STAGES, PATCHES, IMAGES = 2, 4, 4
WIDTH, HEIGHT = 128, 96
TEXT_TOKENS = 6  # beside 48 of an image, as 512 beside 4096 at 1024²


def places() -> list[tuple[str, int, str]]:
    """(sampler, steps, warm-up) of each cell of the table."""
    return [(sampler, steps, warmup) for sampler in SAMPLERS for steps in STEPS for warmup in WARMUPS]


class Deviation:
    def __init__(self, client: ComfyClient, models: ModelShelf):
        self._client = client
        self._models = models
        self._exact: dict[tuple[str, int], torch.Tensor] = {}

    def measure(self, sampler: str, steps: int, warmup: str) -> float:
        """Relative error of the latents of some images, in one batch, against those of stock ComfyUI."""
        if (sampler, steps) not in self._exact:
            self._exact[sampler, steps] = self._latent(sampler, steps, None)
        config = {"pipefusion": STAGES, "patches": PATCHES, "warmup_steps": WARMUPS[warmup](steps)}
        return relative_error(self._latent(sampler, steps, config), self._exact[sampler, steps])

    def _latent(self, sampler: str, steps: int, config: dict | None) -> torch.Tensor:
        """`config`: of Parallel Config, None for stock ComfyUI."""
        graph = Graph()
        options = {"unet_name": self._models.flux(), "weight_dtype": "default"}
        if config is None:
            model = graph.add("UNETLoader", **options)
        else:
            model = graph.add("XDiTLoader", **options, parallel_config=graph.parallel_config(f"cpu:{STAGES}", **config))
        latent = graph.add("EmptySD3LatentImage", width=WIDTH, height=HEIGHT, batch_size=IMAGES)
        text = graph.flux_conditioning(1, TEXT_TOKENS)
        saved = graph.save(graph.sample("KSampler", model, text, latent, steps=steps, sampler_name=sampler))
        return self._client.latent(self._client.run(graph.prompt), saved.id)
