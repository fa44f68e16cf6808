"""Who wrote a piece of Python that a graph brings: ComfyUI, or a node pack; and its name for the person."""

from __future__ import annotations

import functools
import os
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy

COMFY, EXTRAS = "comfy", "comfy_extras"
NODE_PACKS = "custom_nodes/"
LIBRARIES = frozenset({"builtins", "comfy_kitchen", "numpy", "safetensors", "torch", *sys.stdlib_module_names})


@dataclass(frozen=True)
class Name:
    """`pack`: the folder of a node pack, "" for ComfyUI and for libraries; `module` within it; `qualname`."""

    pack: str
    module: str
    qualname: str

    @property
    def name(self) -> str:
        """As the tables of this pack name it."""
        return f"{self.module}:{self.qualname}"

    @property
    def root(self) -> str:
        return self.module.partition(".")[0]

    @property
    def is_comfyuis(self) -> bool:
        return not self.pack and self.root in (COMFY, EXTRAS, "comfy_api", "comfy_execution")

    @property
    def is_foreign(self) -> bool:
        """Neither ComfyUI's nor a library's."""
        return bool(self.pack) or not (self.is_comfyuis or self.root in LIBRARIES)

    def __str__(self) -> str:
        where = f"{self.module} in {self.pack}" if self.pack and self.module else self.pack or self.module
        return f"{self.qualname} of {where}"


def name_of(obj: Any) -> Name:
    """Of a function, a method, a class, or the class of any other object. Of what a decorator of ComfyUI or of a
    library is around, a node pack's function counts.
    """
    first = _own_name(obj)
    while not first.is_foreign and callable(wrapped := _wrapped(obj)):
        obj = wrapped
        if (name := _own_name(obj)).is_foreign:
            return name
    return first


def _wrapped(obj: Any) -> Any:
    if isinstance(obj, functools.partial):
        return obj.func
    return obj.__func__ if isinstance(obj, types.MethodType) else getattr(obj, "__wrapped__", None)


def _own_name(obj: Any) -> Name:
    """Functions that functools.wraps made to look like what they wrap are named by the module that they are in."""
    while isinstance(obj, functools.partial | types.MethodType):
        obj = _wrapped(obj)
    if isinstance(obj, types.FunctionType):
        return _named(obj.__globals__.get("__name__", ""), obj.__qualname__)
    owner = obj if isinstance(obj, type | types.BuiltinFunctionType) else type(obj)
    return _named(getattr(owner, "__module__", None) or "builtins", owner.__qualname__)


@functools.lru_cache(maxsize=1024)
def _named(module: str, qualname: str) -> Name:
    """ComfyUI imports its extra nodes and node packs under their paths."""
    path = module.replace(os.sep, "/")
    if "/" not in path:
        return Name("", path, qualname)
    extras = f"{_tree()}/{EXTRAS}/"
    if path.startswith(extras):
        return Name("", f"{EXTRAS}.{path.removeprefix(extras)}", qualname)
    pack, _, inner = path.rpartition(NODE_PACKS)[2].partition(".")
    return Name(pack.rpartition("/")[2], inner, qualname)


@functools.cache
def _tree() -> str:
    """ComfyUI's folder."""
    return Path(os.path.realpath(next(iter(comfy.__path__)))).parent.as_posix()
