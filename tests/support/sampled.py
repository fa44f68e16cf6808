"""Proof that a latent was sampled for this very prompt, and by ranks: ComfyUI may answer from its cache instead."""

import itertools
import re

import torch
from comfy_host.instance import ComfyInstance

from .comfy_client import ComfyClient, PromptResult
from .prompts import Graph, Node

_numbers = itertools.count(1)
# The console's line for each run in ranks.
ASKED = re.compile(r"xDiT: .+ on (GPU [\d,]+|\d+ CPU rank\(s\))(, compiled)?$", re.MULTILINE)


def uncached(graph: Graph, latent: list) -> Node:
    """`latent` through a node whose input no prompt had before, so that whatever comes after it runs."""
    return graph.add("Uncached", samples=latent, number=next(_numbers))


def latent_by_ranks(
    comfy: ComfyInstance, client: ComfyClient, prompt: dict, sampler: str, saved: str
) -> tuple[torch.Tensor, PromptResult]:
    """The latent that the node `saved` saves; its node `sampler` ran, and had ranks run."""
    start = comfy.log.stat().st_size
    result = client.run(prompt)
    assert_sampled(result, sampler, comfy.log_since(start))
    return client.latent(result, saved), result


def assert_sampled(result: PromptResult, sampler: str, said: str) -> None:
    """`said`: what the console showed while the prompt ran."""
    assert sampler not in result.cached, "answered from ComfyUI's cache: nothing was sampled"
    assert ASKED.search(said), "no ranks were asked"
