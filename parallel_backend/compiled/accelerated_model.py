"""What makes one model's calls faster without changing them: compiled blocks, and CUDA graphs where they are safe."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

from ..sharding.engine.engine import ShardedModel
from ..sharding.plan.plan import class_path
from ..sharding.plans.kernels_only import KERNELS_ONLY
from .blocks import CompiledBlocks
from .graphs import GraphedForward
from .kitchen_formulas import open_to_the_compiler

MOST_VARIANTS = 64  # of one kind of block: shapes, masks, references


class Accelerated:
    """A model whose calls go through `blocks` and `graphs` from `start` to `stop`: during one request."""

    def __init__(self, blocks: CompiledBlocks | None, graphs: GraphedForward | None):
        self._blocks = blocks
        self._graphs = graphs

    def start(self, note: Callable[[str], None], identity: Hashable, graphs: bool) -> None:
        """`note(line)` hears what cannot be had; `identity` as in GraphedForward; `graphs`: whether they are safe."""
        if self._blocks is not None:
            self._blocks.start(note)
        if self._graphs is not None and graphs:
            self._graphs.start(note, identity)

    def stop(self) -> None:
        for part in (self._blocks, self._graphs):
            if part is not None:
                part.active = False

    def drop(self) -> None:
        """Free the graphs' memory: the weights that they read are gone."""
        if self._graphs is not None:
            self._graphs.drop()


def accelerate(
    diffusion_model: torch.nn.Module, sharded: ShardedModel | None, backend: str | Callable = "inductor"
) -> Accelerated | None:
    """For a model with a plan its blocks, compiled with this backend of torch.compile, and graphs if the plan allows
    them; for one without a plan graphs if it is known to launch kernels only, else None. Call it once for a model.
    """
    if sharded is None:
        if class_path(diffusion_model) not in KERNELS_ONLY:
            return None
        return Accelerated(None, GraphedForward(diffusion_model, restart=lambda: None))
    open_to_the_compiler()
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    graphs = GraphedForward(diffusion_model, sharded.restart, sharded.situation) if sharded.plan.graphs else None
    return Accelerated(CompiledBlocks(sharded, backend), graphs)
