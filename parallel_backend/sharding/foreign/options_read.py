"""Which keys of transformer_options a block can read: by the strings that stand in its code and in what that calls."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch

MODELS = "comfy.ldm."  # where code lies that gets transformer_options
# What models set for the patches inside their blocks, and what blocks read for these patches alone.
FOR_PATCHES = frozenset(
    {"activations_shape", "block", "block_index", "block_type", "grid_sizes", "img_slice", "model_patch_data",
     "optimized_attention_override", "patches", "reference_image_num_tokens", "total_blocks"}
)  # fmt: skip


def keys_read(block: torch.nn.Module) -> frozenset[str]:
    """Every string in the code of the block, of its submodules, and of the models' functions that these call, but for
    what is for patches. Any setting that the block reads from transformer_options is among them.
    """
    return _strings(frozenset(type(module) for module in block.modules())) - FOR_PATCHES


@functools.cache
def _strings(kinds: frozenset[type]) -> frozenset[str]:
    found: set[str] = set()
    seen = set()
    ahead = [function for kind in kinds for function in _methods(kind)]
    while ahead:
        function = ahead.pop()
        if function in seen:
            continue
        seen.add(function)
        for code in _codes(function.__code__):
            for constant in code.co_consts:
                found.update(_strings_in(constant))
            for value in _named(code, function):
                found.update(_strings_in(value))
                ahead.extend(_functions(value))
    return frozenset(found)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code and that of the functions and comprehensions inside."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _named(code: CodeType, function: FunctionType) -> Iterator[Any]:
    """What the names in the code stand for, as far as that is known without running it: globals, attributes of Python
    modules, variables of enclosing functions, what a decorator wraps.
    """
    modules = []
    for name in code.co_names:
        if name in function.__globals__:
            value = function.__globals__[name]
            modules.append(value)
            yield value
    modules = [one for one in modules if isinstance(one, ModuleType)]
    while modules:
        module = modules.pop()
        for name in code.co_names:
            value = vars(module).get(name)
            if isinstance(value, ModuleType):
                if value.__name__.startswith(MODELS.rstrip(".")):
                    modules.append(value)
            elif value is not None:
                yield value
    for cell in function.__closure__ or ():
        yield cell.cell_contents
    yield getattr(function, "__wrapped__", None)


def _functions(value: Any) -> list[FunctionType]:
    if isinstance(value, FunctionType):
        return [value] if str(value.__globals__.get("__name__")).startswith(MODELS) else []
    return list(_methods(value)) if isinstance(value, type) else []


def _methods(kind: type) -> Iterator[FunctionType]:
    for base in kind.__mro__:
        if base.__module__.startswith(MODELS):
            for value in vars(base).values():
                value = getattr(value, "__func__", value)
                value = value.fget if isinstance(value, property) else value
                if isinstance(value, FunctionType):
                    yield value


def _strings_in(constant: Any) -> Iterator[str]:
    if isinstance(constant, str):
        yield constant
    elif isinstance(constant, tuple | frozenset):
        for item in constant:
            yield from _strings_in(item)
