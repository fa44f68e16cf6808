"""What a replaced function reads from its node pack's modules: a node may have set it a moment ago.

A function of a pack travels by reference, so that no class exists twice; the rank's copy of the module has the values
that importing it gave. These are the ones of ComfyUI's process, for as long as the request runs.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ...foreign.code_origin import foreign_file, is_comfy_file, is_foreign_file

EMPTY = types.CellType()
PLAIN = (str, bytes, int, float, bool, type(None), torch.Tensor, torch.dtype)


def settings_of(values: Iterable[Any]) -> list[tuple[str, str, Any]]:
    """(module, attribute path, value) of the plain data, and of ComfyUI's functions kept there, that `values` read."""
    found: dict[tuple[str, str], Any] = {}
    seen: set[int] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, types.FunctionType):
            for module, path, read in _read_by(value):
                if _is_setting(read):
                    found[module, path] = read
                else:
                    waiting.append(read)
        waiting.extend(_parts(value))
    return [(module, path, value) for (module, path), value in found.items()]


def _read_by(function: types.FunctionType) -> Iterator[tuple[str, str, Any]]:
    """What a pack's function names in its own module, or in a module, class or object that it names there."""
    module = function.__globals__.get("__name__", "")
    if foreign_file(function) is None or vars(sys.modules.get(module, types)) is not function.__globals__:
        return
    names = _names(function.__code__)
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        yield module, name, value
        if isinstance(value, types.ModuleType):
            if is_foreign_file(getattr(value, "__file__", None) or ""):
                yield from ((value.__name__, inner, vars(value)[inner]) for inner in names & vars(value).keys())
        elif (
            foreign_file(value) is not None and not isinstance(value, types.FunctionType) and hasattr(value, "__dict__")
        ):
            inside = vars(value)
            yield from ((module, f"{name}.{inner}", inside[inner]) for inner in names & inside.keys())


def _names(code: types.CodeType) -> frozenset[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return frozenset(names)


def _is_setting(value: Any, depth: int = 4) -> bool:
    if isinstance(value, PLAIN):
        return True
    if isinstance(value, list | tuple | set | frozenset):
        return depth > 0 and all(_is_setting(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return depth > 0 and all(_is_setting(item, depth - 1) for pair in value.items() for item in pair)
    return isinstance(value, types.FunctionType) and is_comfy_file(value.__code__.co_filename)


def _parts(value: Any) -> Iterator[Any]:
    """What runs when `value` runs."""
    if isinstance(value, types.FunctionType):
        if hasattr(value, "__wrapped__"):
            yield value.__wrapped__
        for cell in value.__closure__ or ():
            if cell != EMPTY and callable(cell.cell_contents):
                yield cell.cell_contents
    elif isinstance(value, functools.partial):
        yield value.func
    elif isinstance(value, staticmethod | classmethod | types.MethodType):
        yield value.__func__
    elif isinstance(value, property):
        yield from (function for function in (value.fget, value.fset) if function is not None)
    elif isinstance(value, type) and foreign_file(value) is not None:
        yield from vars(value).values()
    elif callable(value) and foreign_file(value) is not None:
        yield type(value)
