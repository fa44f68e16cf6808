"""The same graph by stock ComfyUI and by the ranks, in one prompt."""

from collections.abc import Callable

import torch

from .comfy_client import ComfyClient
from .prompts import Graph, Node
from .tiny_models import ModelShelf

TOLERANCE = 1e-5  # relative, fp32: what sharding may change

Build = Callable[[Graph, Node], Node]
"""From (graph, MODEL) to the LATENT of interest."""


def flux_loaders(graph: Graph, models: ModelShelf, devices: str = "cpu:2", flux: tuple = (), dtype="default", **config):
    """The tiny Flux by the stock loader and by ours."""
    options = {"unet_name": models.flux(*flux), "weight_dtype": dtype}
    parallel = graph.parallel_config(devices, **config)
    return graph.add("UNETLoader", **options), graph.add("XDiTLoader", **options, parallel_config=parallel)


def both(client: ComfyClient, models: ModelShelf, build: Build, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents of `build` on the stock MODEL and on ours (`options` as for flux_loaders)."""
    graph = Graph()
    saved = [graph.save(build(graph, model)) for model in flux_loaders(graph, models, **options)]
    result = client.run(graph.prompt)
    stock, found = (client.latent(result, node.id) for node in saved)
    return stock, found
