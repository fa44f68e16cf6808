"""Variables of node packs' modules: set by a node, read or changed by its functions while it samples.

A function of a pack goes to the ranks by name, and finds there the variables of the rank's own module. So the data in
the variables of modules (and of their classes) whose code is part of a request goes along, and is set there; what the
run makes of it comes back as what closures hold does (`returned`).
"""

from __future__ import annotations

import operator
import sys
import types
from collections.abc import Iterable
from typing import Any

import torch

from .packs import pack_of

DATA = (type(None), bool, int, float, complex, str, bytes)
MOST_ITEMS = 10_000
IN_COMFYUI = "/comfy_extras/"  # ComfyUI's own nodes, imported under their path, too


class PackGlobals:
    """The variables of `modules` that hold data, as (module, dotted name)."""

    def __init__(self, modules: Iterable[str] = ()):
        self._names: list[tuple[str, str]] = []
        self._objects: dict[str, list[str]] = {}
        for name in _of_the_same_packs(modules):
            self._look_through(name, sys.modules[name])

    def _look_through(self, name: str, module: Any) -> None:
        self._objects[name] = []
        for variable, value in vars(module).items():
            if variable.startswith("__"):
                continue
            if _is_data(value):
                self._names.append((name, variable))
            elif isinstance(value, type) and value.__module__ == name:
                attributes = [key for key, held in vars(value).items() if not key.startswith("__") and _is_data(held)]
                self._names += [(name, f"{variable}.{key}") for key in attributes]
            else:
                self._objects[name].append(variable)

    def held(self) -> dict[str, Any]:
        """The values, by names that say both."""
        return {f"{module}:{name}": _get(module, name) for module, name in self._names}

    def hold(self, values: dict[str, Any]) -> None:
        for module, name in self._names:
            owner, attribute = _owner(module, name)
            setattr(owner, attribute, values[f"{module}:{name}"])

    def state(self) -> tuple[list[tuple[str, str]], dict[str, list[str]], dict[str, Any]]:
        return self._names, self._objects, self.held()

    def take_over(self, state: tuple[list[tuple[str, str]], dict[str, list[str]], dict[str, Any]]) -> None:
        """In a rank: its modules get the values, but for those of a module that ComfyUI's process has set up further,
        with objects that are not there here: what says so there would be wrong.
        """
        names, objects, values = state
        modules = {
            module
            for module, others in objects.items()
            if module in sys.modules and all(_get(module, name) is not None for name in others)
        }
        self._names = [(module, name) for module, name in names if module in modules and _exists(module, name)]
        self.hold(values)


def _of_the_same_packs(modules: Iterable[str]) -> list[str]:
    """These modules and those that they name, and so on, as far as they belong to the same pack."""
    waiting = list(modules)
    found: dict[str, None] = {}
    while waiting:
        name = waiting.pop()
        if name in found or IN_COMFYUI in name or name not in sys.modules:
            continue
        found[name] = None
        pack = pack_of(name)
        named = {_module_of(value) for value in vars(sys.modules[name]).values()}
        waiting += [other for other in named if other in sys.modules and pack_of(other) == pack]
    return list(found)


def _module_of(value: Any) -> str | None:
    if isinstance(value, types.ModuleType):
        return value.__name__
    return value.__module__ if isinstance(value, type | types.FunctionType) else None


def _owner(module: str, name: str) -> tuple[Any, str]:
    path, _, attribute = name.rpartition(".")
    return operator.attrgetter(path)(sys.modules[module]) if path else sys.modules[module], attribute


def _get(module: str, name: str) -> Any:
    owner, attribute = _owner(module, name)
    return getattr(owner, attribute, None)


def _exists(module: str, name: str) -> bool:
    owner, attribute = _owner(module, name)
    return attribute in vars(owner)


def _is_data(value: Any) -> bool:
    """Numbers, texts, tensors, and dicts, lists, tuples and sets of them."""
    waiting, seen = [value], 0
    while waiting:
        seen += 1
        item = waiting.pop()
        if isinstance(item, DATA) and type(item) in DATA:
            continue
        if type(item) is torch.Tensor and not item.is_meta and item.layout is torch.strided:
            continue
        if type(item) is dict:
            waiting += item.keys()
            waiting += item.values()
        elif type(item) in (list, tuple, set):
            waiting += item
        else:
            return False
        if seen + len(waiting) > MOST_ITEMS:
            return False
    return True
