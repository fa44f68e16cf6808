"""Python that a graph's nodes have run inside or around the model calls of one guided call: what, and where."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from comfy.hooks import EnumHookType
from comfy.patcher_extension import WrappersMP

from .authors import name_of
from .kernel_choice import node_attention

OURS = "xdit"  # the key of this pack's wrappers
# Wrappers that run inside a guided call.
INSIDE = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
# What ComfyUI works with element by element before and after the diffusion model.
ELEMENTWISE = frozenset({"model_sampling", "latent_format"})
_OPTIONS_BY_NAME = frozenset({"patches", "patches_replace", "wrappers", "callbacks", "optimized_attention_override"})


@dataclass(frozen=True)
class NodeCode:
    """`code` at `place` ("the patch 'attn1_patch'")."""

    place: str
    code: Any

    def __str__(self) -> str:
        return f"{self.place} ({name_of(self.code)})"


def node_code(patcher: Any, model_options: dict[str, Any], conds: Iterable[list | None]) -> Iterator[NodeCode]:
    """All of it: in the options of the model, on its patcher, and in the hooks of conditions.

    patcher: the ModelPatcher that is sampled; conds: lists of conditions as in `guider.conds`, None for one left out.
    """
    yield from _in_options(model_options.get("transformer_options", {}))
    if (wrapper := model_options.get("model_function_wrapper")) is not None:
        yield NodeCode("the model function wrapper", wrapper)
    for options in _options_of_hooks(conds):
        yield from _in_options(options)
    yield from _on(patcher)


def _in_options(options: dict[str, Any]) -> Iterator[NodeCode]:
    for name, found in options.get("patches", {}).items():
        yield from (NodeCode(f"the patch {name!r}", patch) for patch in found)
    for name, replaced in options.get("patches_replace", {}).items():
        yield from (NodeCode(f"a replaced {name!r}", patch) for patch in replaced.values())
    if (attention := node_attention(options)) is not None:
        yield NodeCode("the attention override", attention)
    wrappers = options.get("wrappers", {})
    for kind in INSIDE:
        for key, found in wrappers.get(kind, {}).items():
            if key != OURS:
                yield from (NodeCode(f"the {kind} wrapper", wrapper) for wrapper in found)
    for name, value in options.items():
        if name not in _OPTIONS_BY_NAME and callable(value):
            yield NodeCode(f"{name!r} in the transformer options", value)


def _options_of_hooks(conds: Iterable[list | None]) -> Iterator[dict[str, Any]]:
    """Transformer options that a condition's hooks bring."""
    groups = {id(part["hooks"]): part["hooks"] for cond in conds if cond for part in cond if part.get("hooks")}
    for hook in itertools.chain.from_iterable(
        group.get_type(EnumHookType.TransformerOptions) for group in groups.values()
    ):
        yield hook.transformers_dict or {}


def _on(patcher: Any) -> Iterator[NodeCode]:
    for name, value in getattr(patcher, "object_patches", {}).items():
        if name not in ELEMENTWISE and (code := _code_in(value)) is not None:
            yield NodeCode(f"the object patch {name!r}", code)
    for name, injections in getattr(patcher, "injections", {}).items():
        for injection in injections:
            yield NodeCode(f"the injection {name!r}", injection.inject)
    for name, wrappers in getattr(patcher, "weight_wrapper_patches", {}).items():
        yield from (NodeCode(f"the weight wrapper of {name!r}", wrapper) for wrapper in wrappers)


def _code_in(value: Any) -> Any | None:
    """What of an exchanged object runs; None for plain data. Of a module the first of its parts that is a node's."""
    if isinstance(value, torch.nn.Module):
        return next((part for part in value.modules() if name_of(part).is_foreign), value)
    return value if callable(value) else None
