"""Compiled blocks and CUDA graphs for the models of one request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ...contract.commands import Prepare
from .mesh import Mesh


@contextlib.contextmanager
def accelerated(patchers: list[Any], mesh: Mesh, options: Prepare, note: Callable[[str], None]) -> Iterator[None]:
    """The models of the request run compiled and as CUDA graphs, as far as they can, while the context lasts."""
    from ...compiled.accelerated_model import accelerate  # imports the compiler

    started = []
    identity = (mesh.number, options.attention, options.settings)
    for patcher in patchers:
        model = patcher.model
        if not hasattr(model, "xdit_accelerated"):
            model.xdit_accelerated = accelerate(model.diffusion_model, getattr(model, "xdit_sharded", None))
        if model.xdit_accelerated is not None:
            model.xdit_accelerated.start(note, identity, _graphs_are_safe(patcher))
            started.append(model.xdit_accelerated)
    try:
        yield
    finally:
        for model in started:
            model.stop()


def _graphs_are_safe(patcher: Any) -> bool:
    """Weights keep their places between two calls of a request, and no object inside the model was exchanged."""
    exchanged = any(name.startswith("diffusion_model") for name in patcher.object_patches)
    moves = patcher.hook_patches or patcher.model.xdit_weights.divided
    return patcher.load_device.type == "cuda" and not moves and not exchanged
