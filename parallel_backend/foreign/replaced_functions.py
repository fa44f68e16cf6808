"""Functions and classes of ComfyUI that another one has taken the place of, in this process.

Only the modules that sampling runs are looked at: ComfyUI's samplers, models, operations, patches and conditionings,
and of its architectures those whose code the model at hand can reach.
"""

from __future__ import annotations

import functools
import re
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .code_origin import file_of_function, foreign_file, innermost, is_comfy_file, pack_of

ARCHITECTURES = "comfy.ldm"
TORCH = "torch.nn.functional"
# What a model call consists of beside its architecture: each works on one token, one weight or one whole latent.
INSIDE_THE_MODEL = (
    "comfy.ops",
    "comfy.quant_ops",
    "comfy.float",
    "comfy.rmsnorm",
    "comfy.lora",
    "comfy.weight_adapter",
)
# What runs around a model call.
AROUND_THE_MODEL = (
    "comfy.samplers", "comfy.k_diffusion", "comfy.extra_samplers", "comfy.model_base", "comfy.model_sampling",
    "comfy.sampler_helpers", "comfy.conds", "comfy.controlnet", "comfy.cldm", "comfy.t2i_adapter", "comfy.gligen",
    "comfy.hooks", "comfy.model_patcher", "comfy.context_windows", "comfy.patcher_extension", "comfy.latent_formats",
    "comfy.nested_tensor", "comfy.utils", "comfy_extras",
)  # fmt: skip
# Each process does these in its own way: where weights lie, how files are read, how progress is shown.
OF_THE_PROCESS = re.compile(
    r"comfy\.utils:(load_|save_|safetensors_|ProgressBar|set_progress|PROGRESS|model_trange)"
    r"|comfy\.model_patcher:\w+\.(__init__|__del__|load|_load_list|partially_\w+|detach|model_size|loaded_size"
    r"|memory_required|current_loaded_device|lowvram_\w+|pin_\w+|unpin_\w+|get_free_memory|cleanup)$"
)
_DATA = (str, int, float, bool, type(None), dict, list, tuple, set, types.ModuleType, torch.Tensor, torch.dtype)
_DEFINITION = re.compile(r"^( {4})?(?:async )?(def|class) (\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Replaced:
    """`name` of a module (a function, a class, or "Class.method") is now `value`, which is not ComfyUI's own there."""

    module: str
    name: str
    value: Any

    @property
    def title(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def pack(self) -> str:
        """The name of the pack whose code it is, for the person."""
        file = foreign_file(self.value)
        if file is not None:
            return f"the node pack {pack_of(file)!r}"
        inner = innermost(self.value)
        return f"some node, by {getattr(inner, '__module__', '?')}.{getattr(inner, '__qualname__', inner)}"

    @property
    def inside_the_model(self) -> bool:
        return self.of_the_architecture or _is_below(self.module, INSIDE_THE_MODEL)

    @property
    def of_the_architecture(self) -> bool:
        """Whether it may look at all tokens of a model call."""
        return _is_below(self.module, (ARCHITECTURES, TORCH))


def find_replaced(model: torch.nn.Module | None = None) -> list[Replaced]:
    """What sampling with the diffusion model `model` would meet; with None, in all architectures."""
    names = _scanned(len(sys.modules), architectures=model is None)
    if model is not None:
        if model not in _architectures:
            _architectures[model] = architecture_of(frozenset(type(module) for module in model.modules()))
        names = (*names, *_architectures[model])
    found = [one for name in names if (module := sys.modules.get(name)) is not None for one in _in_module(module)]
    return found + list(_in_torch())


_architectures: WeakKeyDictionary[torch.nn.Module, tuple[str, ...]] = WeakKeyDictionary()


@functools.lru_cache(maxsize=2)
def _scanned(loaded: int, architectures: bool) -> tuple[str, ...]:
    """The modules to look at; `loaded`: how many there are, which changes when one is imported."""
    parents = AROUND_THE_MODEL + INSIDE_THE_MODEL + ((ARCHITECTURES,) if architectures else ())
    return tuple(name for name in sys.modules if _is_below(name, parents))


@functools.cache
def architecture_of(classes: frozenset[type]) -> tuple[str, ...]:
    """The modules of comfy.ldm that the code of these classes of modules can reach by names."""
    waiting: list[Any] = [base.__module__ for cls in classes for base in cls.__mro__]
    reached: dict[str, None] = {}
    while waiting:
        name = waiting.pop()
        if (
            not isinstance(name, str)
            or name in reached
            or not _is_below(name, (ARCHITECTURES,))
            or name not in sys.modules
        ):
            continue
        reached[name] = None
        for value in vars(sys.modules[name]).values():
            waiting.append(
                value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            )
    return tuple(reached)


def namespaces(names: Iterable[str]) -> Iterator[tuple[str, str, Any]]:
    """(module, "" or "Class.", module or class) of loaded modules and all their classes."""
    for name in names:
        module = sys.modules[name]
        yield name, "", module
        for cls in [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == name]:
            yield from _class_namespaces(name, cls)


def _class_namespaces(module: str, cls: type) -> Iterator[tuple[str, str, Any]]:
    yield module, f"{cls.__qualname__}.", cls
    for value in list(vars(cls).values()):
        if isinstance(value, type) and value.__qualname__.startswith(f"{cls.__qualname__}."):
            yield from _class_namespaces(module, value)


def all_modules() -> list[str]:
    """The names of every loaded module in which something may be replaced."""
    return [
        name for name in sys.modules if _is_below(name, (*AROUND_THE_MODEL, *INSIDE_THE_MODEL, ARCHITECTURES, TORCH))
    ]


_found_own: dict[tuple[str, str], dict[str, Any]] = {}  # of each namespace, what was judged: looked at once


def _in_module(module: types.ModuleType) -> Iterator[Replaced]:
    for name, prefix, owner in namespaces((module.__name__,)):
        own = _found_own.setdefault((name, prefix), {})
        for key, value in list(vars(owner).items()):
            if own.get(key, own) is value:
                continue
            replaced = _judge(name, prefix, key, value)
            if replaced is None:
                own[key] = value
            else:
                yield replaced


def _judge(module: str, prefix: str, key: str, value: Any) -> Replaced | None:
    name = prefix + key
    if _is_own(module, name, value) or OF_THE_PROCESS.match(f"{module}:{name}"):
        return None
    if foreign_file(value) is not None:
        is_replaced = bool(prefix) or _is_bound(module, key)
    else:
        is_replaced = name in _definitions(module) and not _is_defined_as(module, name, value)
    return Replaced(module, name, value) if is_replaced else None


def _in_torch() -> Iterator[Replaced]:
    for key, value in list(vars(sys.modules[TORCH]).items()):
        if isinstance(value, types.FunctionType) and foreign_file(value) is not None:
            yield Replaced(TORCH, key, value)


def _is_own(module: str, name: str, value: Any) -> bool:
    """Whether `value` plainly is what this module defines under this name, or nothing that runs."""
    if isinstance(value, _DATA):
        return True
    if isinstance(value, types.FunctionType):
        return (
            value.__qualname__ == name
            and value.__module__ == module
            and not hasattr(value, "__wrapped__")
            and _is_comfy_file(value.__code__.co_filename)
        )
    return isinstance(value, type) and value.__qualname__ == name and value.__module__ == module


_is_comfy_file = functools.cache(is_comfy_file)


def _is_defined_as(module: str, name: str, value: Any) -> bool:
    inner = innermost(value)
    if isinstance(inner, types.FunctionType):
        if inner.__module__ != module or not _is_comfy_file(file_of_function(inner)):
            return False
        return inner.__qualname__ == name or "<locals>" in inner.__qualname__  # what a decorator of the module made
    return isinstance(inner, type) and inner.__module__ == module and inner.__qualname__ == name


@functools.cache
def _source(module: str) -> str:
    file = getattr(sys.modules[module], "__file__", None)
    if not file or not file.endswith(".py"):
        return ""
    with open(file, encoding="utf-8") as source:
        return source.read()


@functools.cache
def _definitions(module: str) -> frozenset[str]:
    """The functions and classes that a module's source defines, and the methods of its classes ("Class.method")."""
    found, inside = set(), ""
    for indented, kind, name in _DEFINITION.findall(_source(module)):
        if not indented:
            found.add(name)
            inside = name if kind == "class" else ""
        elif inside:
            found.add(f"{inside}.{name}")
    return frozenset(found)


def _is_bound(module: str, name: str) -> bool:
    """Whether a module's source knows a name at all: what a pack adds to ComfyUI's modules takes no one's place."""
    return re.search(rf"\b{re.escape(name)}\b", _source(module)) is not None


@functools.cache
def _is_below(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)
