"""Compiles the blocks of a diffusion model with torch.compile, each kind of block once for all blocks of its kind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch

from ..sharding.engine.attention_override import ShardedAttention
from ..sharding.engine.engine import ShardedModel
from ..sharding.foreign.kernel_choice import OVERRIDE
from ..sharding.foreign.model_watch import ForeignCode, watch
from ..sharding.foreign.options_read import keys_read
from ..sharding.foreign.reach import blocks_with_code
from ..sharding.plan.block_paths import hooked_blocks
from ..sharding.plan.modules import argument_names, bind, blocks_at, module_at
from . import fuse
from .attention_op import LOCAL_THROUGH_OPERATOR, THROUGH_OPERATOR, WHOLE_QUERIES_THROUGH_OPERATOR, attention_options
from .global_attention import attend_locally, open_global
from .scaled_fp8 import open_to_the_compiler

OPTIONS = "transformer_options"
PLAIN = (type(None), bool, int, float, str)


class CompiledBlocks:
    """The blocks of a model that its plan names. Each runs compiled while `active`, as ComfyUI wrote it otherwise.

    backend: of torch.compile. What is compiled holds no weights: patched, moved and exchanged ones need no new
    compiling.
    """

    def __init__(self, sharded: ShardedModel, backend: str | Callable = "inductor"):
        model, plan = sharded.model, sharded.plan
        self.active = False
        self._sharded = sharded
        self._note: Callable[[str], None]
        self._backend = fuse.fusing(backend)
        self._compiled: dict[Callable, Callable] = {}
        self._failed: set[Callable] = set()
        self._outside = plan.whole_patches | plan.between_patches
        self._watch = watch(model)
        self._blocks = hooked_blocks(model, plan)
        self._keys = {type(block): keys_read(block) for block in self._blocks.values()}
        self._foreign: tuple[tuple[ForeignCode, ...], dict[str, ForeignCode]] = ((), {})
        self._forwards = {path: self._forward_of(path, block) for path, block in self._blocks.items()}
        self._take_places()
        for block in self._blocks.values():
            open_to_the_compiler(block)
        self._with_local_queries: set[int] = set()  # ids of blocks
        for blocks in plan.blocks:
            for block in blocks_at(model, blocks.path):
                if blocks.local_queries:
                    self._with_local_queries.add(id(block))
                for name in blocks.gather_keys:
                    module_at(block, name).register_forward_pre_hook(_with_whole_queries, with_kwargs=True)
                for name in blocks.local:
                    inner = module_at(block, name)
                    if _takes_options(argument_names(inner)):
                        inner.register_forward_pre_hook(_attend_locally, with_kwargs=True)
                    else:
                        attend_locally(inner)
        for name in plan.attention_globals:
            open_global(name)

    def start(self, note: Callable[[str], None]) -> None:
        """Run compiled. `note(line)` hears why blocks run as they are nevertheless: code of a node, a patch that the
        compiler must not see, a compiler that failed.
        """
        self._note = note
        self._take_places()
        self.active = True

    def _take_places(self) -> None:
        """Be the forward of each block, but of those that have a node's. ComfyUI drops this one where it takes that
        back.
        """
        replaced = {one.path for one in self._watch.look() if one.what == "forward"}
        for path, block in self._blocks.items():
            if path not in replaced and vars(block).get("forward") is not self._forwards[path]:
                block.forward = self._forwards[path]

    def _forward_of(self, path: str, block: torch.nn.Module) -> Callable:
        names, keys = argument_names(block), self._keys[type(block)]

        @functools.wraps(MethodType(type(block).forward, block))
        def forward(*args, **kwargs):
            # The class's at the time: a node may exchange the class, and open_to_the_compiler replaces functions.
            as_it_is = functools.partial(type(block).forward, block, *args, **kwargs)
            if not self.active or type(block).forward in self._failed:
                return as_it_is()
            options = bind(names, args, kwargs).get(OPTIONS) or {}
            if obstacle := self._obstacle(path, keys, names, options):
                self._note(obstacle)
                return as_it_is()
            if "args" not in names:
                args, kwargs = (), bind(names, args, kwargs)
            if _takes_options(names):
                settings = {key: options[key] for key in keys & options.keys()}
                kwargs = {**kwargs, OPTIONS: {OVERRIDE: THROUGH_OPERATOR, **settings}}
            with attention_options(self._options_of_attention(options)):
                return self._run(block, as_it_is, args, kwargs)

        return forward

    def _obstacle(self, path: str, keys: frozenset[str], names: tuple[str, ...], options: dict[str, Any]) -> str:
        """Why a block that is called with these transformer_options is not compiled, or ""."""
        if (found := self._watch.found) and (code := self._code_in(found).get(path)) is not None:
            return f"{code.by} runs in blocks of the model; these are not compiled"
        if not _takes_options(names) and not self._sharded.plan.attention_globals:
            return "the blocks take no transformer_options, so they are not compiled"
        inside = [name for name, patches in options.get("patches", {}).items() if patches and name not in self._outside]
        if inside:
            return f"the patch {inside[0]!r} runs inside the blocks, so they are not compiled"
        if (
            id(self._blocks[path]) in self._with_local_queries
            and getattr(options.get(OVERRIDE), "node", None) is not None
        ):
            return "a node computes attention in its own way, so the blocks are not compiled"
        for key in sorted(keys & options.keys()):
            if not _is_plain(options[key]):
                kind = type(options[key]).__qualname__
                return f"the blocks read {key!r} of transformer_options, a {kind}, so they are not compiled"
        return ""

    def _options_of_attention(self, options: dict[str, Any]) -> dict[str, Any]:
        """What the attention of a block called with these transformer_options would get, were it not compiled."""
        if not self._sharded.plan.attention_globals:
            return options
        call = self._sharded.call
        return {OVERRIDE: ShardedAttention(call, None)} if call is not None else {}

    def _code_in(self, found: tuple[ForeignCode, ...]) -> dict[str, ForeignCode]:
        if self._foreign[0] is not found:
            self._foreign = found, blocks_with_code(found, self._blocks)
        return self._foreign[1]

    def _run(self, block: torch.nn.Module, as_it_is: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        kind = type(block).forward
        if kind not in self._compiled:
            self._compiled[kind] = torch.compile(kind, fullgraph=True, backend=self._backend)
        begun = fuse.runs()
        try:
            return self._compiled[kind](block, *args, **kwargs)
        except Exception as error:
            if fuse.runs() > begun:
                raise
            # Nothing of this block has run yet, as it is compiled as one graph.
            self._failed.add(kind)
            self._note(f"{type(block).__qualname__} could not be compiled and runs as it is: {_first_line(error)}")
            return as_it_is()


def _takes_options(names: tuple[str, ...]) -> bool:
    return OPTIONS in names or "**" in names


def _is_plain(value: Any) -> bool:
    """Whether a compiler can take it as a constant."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _attend_locally(module, args, kwargs):
    """Attention to a context that every rank has whole. Traced by the compiler; does nothing outside it."""
    if not torch.compiler.is_compiling():
        return None
    return args, {**kwargs, OPTIONS: {**kwargs.get(OPTIONS, {}), OVERRIDE: LOCAL_THROUGH_OPERATOR}}


def _with_whole_queries(module, args, kwargs):
    """Attention of queries that every rank has whole, to keys that are split. Traced as the one above."""
    if not torch.compiler.is_compiling():
        return None
    return args, {**kwargs, OPTIONS: {**kwargs.get(OPTIONS, {}), OVERRIDE: WHOLE_QUERIES_THROUGH_OPERATOR}}
