"""Patches that a graph puts inside the blocks, where tokens are split: around attention, before the MLP.

Such a patch may look at any token (attention guidance, attention maps, adapters that read the picture's grid). Its
tensors are made whole for it, and what it returns is cut again, so that any patch that keeps the number of tokens is
exact. Source of the names and of what is passed: the blocks of comfy/ldm/flux, qwen_image, krea2, wan and cosmos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..foreign.own_options import InOptions
from ..plan.errors import ShardingError
from ..plan.plan import GRID, InnerPatch

if TYPE_CHECKING:
    from .model_call import Call


class WholePatch(InOptions):
    """`patch` as the model calls it on this rank's share. What it returns must have as many tokens as it was given."""

    def __init__(self, name: str, patch: Callable, spec: InnerPatch, call: Call):
        self._name = name
        self._patch = patch
        self._spec = spec
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._call.sharded or self._call.inside is None:
            return self._patch(*args, **kwargs)
        if len(args) == 1 and isinstance(args[0], dict):
            given = dict(args[0])
            shown = self._shown(given)
            return self._cut(self._patch(shown), given, shown)
        named = dict(zip((*self._spec.tokens, "extra_options"), args, strict=False))
        given = {**named, **kwargs}
        shown = self._shown(given)
        result = self._patch(*(shown[name] for name in named), **{name: shown[name] for name in kwargs})
        return self._cut(result, given, shown)

    def _shown(self, given: dict[str, Any]) -> dict[str, Any]:
        call, shown = self._call, dict(given)
        for name, dim in self._spec.tokens.items():
            if dim is not None and isinstance(given.get(name), torch.Tensor):
                shown[name] = call.gather_along(given[name], call.block.attention, dim)
        for name, argument in self._spec.whole.items():
            if given.get(name) is not None:
                shown[name] = call.whole_arguments[argument]
        if "extra_options" in given:
            _show_slice(given["extra_options"], call)
        return shown

    def _cut(self, result: Any, given: dict[str, Any], shown: dict[str, Any]) -> Any:
        if isinstance(result, torch.Tensor):
            return self._own(result, next(iter(self._spec.tokens)))
        own = dict(result)
        for name in own:
            if own[name] is shown.get(name) and name in self._spec.whole:
                own[name] = given[name]
            elif name in self._spec.tokens:
                own[name] = self._own(own[name], name)
            elif name in self._spec.whole and own[name] is not None:
                argument = self._spec.whole[name]
                own[name] = self._call.block.arguments[argument].cut(own[name], self._call)
        return own

    def _own(self, whole: torch.Tensor, name: str) -> torch.Tensor:
        call, dim = self._call, self._spec.tokens[name]
        if dim is None:
            return whole
        found, total = whole.shape, call.layout.total(call.block.attention)
        if dim != GRID and found[dim] != total:
            raise ShardingError(
                f"the patch {self._name!r} ({_described(self._patch)}) changed the number of tokens of {name} from"
                f" {total} to {found[dim]}; such a patch runs on one device only: set Parallel Config's strategy to"
                " manual with all degrees 1"
            )
        return call.take_along(whole, call.block.attention, dim)


def _show_slice(extra_options: dict[str, Any], call: Call) -> None:
    """The rows of the image among all tokens, as the model would give them without a split."""
    if "img_slice" in extra_options and "txt" in call.block.attention:
        extra_options["img_slice"] = [call.layout.total(("txt",)), call.layout.total(call.block.attention)]


def _described(patch: Any) -> str:
    kind = patch if hasattr(patch, "__qualname__") else type(patch)
    return f"{kind.__module__}.{kind.__qualname__}"


def wrap_inner(patches: Mapping[str, list], specs: Mapping[str, InnerPatch], call: Call) -> dict[str, list]:
    """transformer_options["patches"] with those named in `specs` wrapped."""
    return {
        name: [WholePatch(name, patch, specs[name], call) for patch in found] if name in specs else found
        for name, found in patches.items()
    }
