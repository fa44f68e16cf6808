"""Compiles the blocks of a diffusion model with torch.compile, each kind of block once for all blocks of its kind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from ..sharding.modules import argument_names, bind, blocks_at, module_at
from ..sharding.patches import OVERRIDE
from ..sharding.plan import Blocks, Plan
from .attention_op import LOCAL_OPTIONS, WHOLE_OPTIONS, attention_options
from .fuse import fusing
from .scaled_fp8 import open_to_the_compiler

OPTIONS = "transformer_options"


class CompiledBlocks:
    """The blocks named in `plan`, each of which runs compiled while `active`, as ComfyUI wrote it otherwise.

    backend: of torch.compile. What is compiled holds no weights: patched, moved and exchanged ones need no new
    compiling.
    """

    def __init__(self, model: torch.nn.Module, plan: Plan, backend: str | Callable = "inductor"):
        self.active = False
        self._note: Callable[[str], None]
        self._backend = fusing(backend)
        self._compiled: dict[Callable, Callable] = {}
        self._failed: set[Callable] = set()
        self._outside = plan.whole_patches | plan.between_patches
        for blocks in plan.blocks:
            for block in blocks_at(model, blocks.path):
                self._replace_forward(block, blocks)
                open_to_the_compiler(block)
                for name in blocks.local:
                    module_at(block, name).register_forward_pre_hook(_attend_locally, with_kwargs=True)

    def start(self, note: Callable[[str], None]) -> None:
        """Run compiled. `note(line)` hears why blocks run as they are nevertheless: a patch that the compiler must not
        see, a compiler that failed.
        """
        self._note = note
        self.active = True

    def _replace_forward(self, block: torch.nn.Module, blocks: Blocks) -> None:
        names = argument_names(block)
        replaced = vars(block).get("forward")  # else the class's, which a node pack may replace for one request

        def original(*args, **kwargs):
            return replaced(*args, **kwargs) if replaced is not None else type(block).forward(block, *args, **kwargs)

        outside = self._outside

        @functools.wraps(block.forward)
        def forward(*args, **kwargs):
            if not self.active or type(block).forward in self._failed:
                return original(*args, **kwargs)
            if "args" not in names:
                args, kwargs = (), bind(names, args, kwargs)
            options = kwargs.get(OPTIONS) or {}
            inside = [name for name, found in options.get("patches", {}).items() if found and name not in outside]
            if inside:
                self._note(f"the patch {inside[0]!r} runs inside the blocks, so they are not compiled")
                return original(*args, **kwargs)
            if blocks.local_queries and getattr(options.get(OVERRIDE), "node", None) is not None:
                self._note("a node computes attention in its own way, so the blocks are not compiled")
                return original(*args, **kwargs)
            with attention_options(options):
                return self._run(block, original, args, kwargs)

        block.forward = forward

    def _run(self, block: torch.nn.Module, original: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        kind = type(block).forward
        if kind not in self._compiled:
            self._compiled[kind] = torch.compile(kind, fullgraph=True, backend=self._backend)
        try:
            return self._compiled[kind](block, *args, **{**kwargs, OPTIONS: WHOLE_OPTIONS})
        except (
            TorchDynamoException,
            FailOnRecompileLimitHit,
        ) as error:
            # Nothing of this block has run yet, as it is compiled as one graph.
            self._failed.add(kind)
            self._note(f"{type(block).__qualname__} could not be compiled and runs as it is: {_first_line(error)}")
            return original(*args, **kwargs)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _attend_locally(module, args, kwargs):
    """Attention to a context that every rank has whole. Traced by the compiler; does nothing outside it."""
    if not torch.compiler.is_compiling():
        return None
    return args, {**kwargs, OPTIONS: LOCAL_OPTIONS}
