"""Whether a function of a node may remember something from one call to the next."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable
from typing import Any

import torch

from .authors import name_of

_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, type, types.ModuleType, types.BuiltinFunctionType),
    *(torch.dtype, torch.device, torch.Tensor),
)
_STORES = frozenset({"STORE_GLOBAL", "STORE_ATTR", "DELETE_GLOBAL", "DELETE_ATTR"})


def may_remember(function: Callable) -> bool:
    """False for a function that writes no variable of others and holds nothing but plain values and such functions."""
    return _may_remember(function, set())


def _may_remember(value: Any, seen: set[int]) -> bool:
    if isinstance(value, _PLAIN) or id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, tuple | frozenset):
        return any(_may_remember(item, seen) for item in value)
    if isinstance(value, functools.partial):
        return any(_may_remember(part, seen) for part in (value.func, value.args, tuple(value.keywords.values())))
    if not isinstance(value, types.FunctionType):
        return True
    if not name_of(value).is_foreign:
        return False
    held = [cell.cell_contents for cell in value.__closure__ or ()]
    held += [value.__globals__[name] for name in _globals_of(value.__code__) if name in value.__globals__]
    held += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    return _writes(value.__code__) or any(_may_remember(item, seen) for item in held)


def _codes(code: types.CodeType) -> list[types.CodeType]:
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return [code, *(below for one in inner for below in _codes(one))]


def _writes(code: types.CodeType) -> bool:
    """Into a variable that lives longer than the call, or into an object."""
    return any(
        instruction.opname in _STORES
        or (instruction.opname in ("STORE_DEREF", "DELETE_DEREF") and instruction.argval in code.co_freevars)
        for one in _codes(code)
        for instruction in dis.get_instructions(one)
    )


def _globals_of(code: types.CodeType) -> set[str]:
    return {
        instruction.argval
        for one in _codes(code)
        for instruction in dis.get_instructions(one)
        if instruction.opname == "LOAD_GLOBAL"
    }
