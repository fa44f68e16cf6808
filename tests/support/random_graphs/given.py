"""A graph that is given in ComfyUI's API format, as stock ComfyUI runs it, and the same by the ranks."""

from __future__ import annotations

import math
from typing import Any

from ..prompts import parallel_config_inputs
from ..tiny_models import ModelShelf
from .plan import LOADER

LOADERS = {"UNETLoader": "XDiTLoader", "CheckpointLoaderSimple": "XDiTCheckpointLoader"}
SAMPLERS = {"KSampler": "XDiTSampler", "SamplerCustomAdvanced": "XDiTSamplerAdvanced"}


def filled(graph: dict[str, dict], models: ModelShelf) -> dict[str, dict]:
    """The graph with the names of files for its texts such as "$flux", which are methods of ModelShelf."""

    def value(given: Any) -> Any:
        return getattr(models, given[1:])() if isinstance(given, str) and given.startswith("$") else given

    return {
        key: {**node, "inputs": {name: value(given) for name, given in node["inputs"].items()}}
        for key, node in graph.items()
    }


def by_the_ranks(graph: dict[str, dict], kind: str, degrees: dict[str, int]) -> dict[str, dict]:
    """The same graph with our loader, or with our sampler. Raises ValueError where it has none to exchange."""
    exchanged = LOADERS if kind == LOADER else SAMPLERS
    config = parallel_config_inputs(f"cpu:{max(math.prod(degrees.values()), 2)}", **degrees)
    made = {"xdit": {"class_type": "XDiTParallelConfig", "inputs": config}}
    for key, node in graph.items():
        if name := exchanged.get(node["class_type"]):
            node = {"class_type": name, "inputs": {**node["inputs"], "parallel_config": ["xdit", 0]}}
        made[key] = node
    if all(node["class_type"] not in exchanged.values() for node in made.values()):
        raise ValueError(f"the graph holds none of {', '.join(exchanged)}")
    return made


def saved_in(graph: dict[str, dict]) -> list[str]:
    return [key for key, node in graph.items() if node["class_type"] == "SaveLatent"]
