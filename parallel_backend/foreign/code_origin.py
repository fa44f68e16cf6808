"""Whose code an object is: ComfyUI's, a library's, this pack's, or that of another node pack."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import types
from collections.abc import Iterator
from typing import Any

import comfy

CUSTOM_NODES = "custom_nodes"
DEPTH = 16  # of wrappers around a function

_comfy_root = os.path.dirname(os.path.dirname(os.path.abspath(comfy.__file__ or next(iter(comfy.__path__)))))
_own_root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
_own_folders = [os.path.join(_own_root, name) for name in ("parallel_backend", "nodes")]
_libraries = {os.path.abspath(path) for path in sysconfig.get_paths().values()}


@functools.cache
def is_foreign_file(file: str) -> bool:
    """Whether a source file belongs to another node pack: neither ComfyUI's, nor a library's, nor this pack's."""
    if not file or file.startswith("<"):
        return False
    path = os.path.abspath(file)
    if _inside(path, _own_root):
        return False
    if any(_inside(os.path.realpath(path), os.path.realpath(folder)) for folder in _own_folders):
        return False  # compiled code may name its file by another link
    if CUSTOM_NODES in path.split(os.sep):
        return True
    if _inside(path, _comfy_root) or "site-packages" in path or "dist-packages" in path:
        return False
    return not any(_inside(path, library) for library in _libraries)


def is_comfy_file(file: str) -> bool:
    """Whether a source file is of ComfyUI itself."""
    return _inside(os.path.abspath(file), _comfy_root) and not is_foreign_file(file)


@functools.cache
def pack_of(file: str) -> str:
    """The name of the node pack that a source file belongs to: its folder in custom_nodes, else the file."""
    parts = os.path.abspath(file).split(os.sep)
    if CUSTOM_NODES not in parts[:-1]:
        return file
    return parts[parts.index(CUSTOM_NODES) + 1].removesuffix(".py")


def foreign_file(value: Any) -> str | None:
    """The file of another pack whose code runs when `value` is called; None where it is nobody else's."""
    return next((file for file in _files(value) if is_foreign_file(file)), None)


def innermost(value: Any) -> Any:
    """The function inside static, class and bound methods, partials, properties and what functools.wraps left."""
    for _ in range(DEPTH):
        inner = next(_inner(value), None)
        if inner is None:
            break
        value = inner
    return value


def file_of_function(function: types.FunctionType) -> str:
    """Where a function was written; one made by exec (a dataclass's) belongs to the module that holds its globals."""
    file = function.__code__.co_filename
    return function.__globals__.get("__file__") or "" if file.startswith("<") else file


def file_of_class(cls: type) -> str:
    """Where a class was written, "" for a built-in one."""
    return getattr(sys.modules.get(cls.__module__), "__file__", None) or ""


def _files(value: Any, depth: int = DEPTH) -> Iterator[str]:
    if isinstance(value, types.FunctionType):
        yield file_of_function(value)
    elif isinstance(value, type):
        yield file_of_class(value)
    elif not isinstance(value, _WRAPPERS):
        yield file_of_class(type(value))
    if depth:
        for inner in _inner(value):
            yield from _files(inner, depth - 1)


_WRAPPERS = (staticmethod, classmethod, types.MethodType, functools.partial, property)


def _inner(value: Any) -> Iterator[Any]:
    if isinstance(value, staticmethod | classmethod | types.MethodType):
        yield value.__func__
    elif isinstance(value, functools.partial):
        yield value.func
    elif isinstance(value, property):
        yield from (function for function in (value.fget, value.fset) if function is not None)
    elif not isinstance(value, type):
        wrapped = getattr(value, "__wrapped__", None) if hasattr(value, "__dict__") else None
        if callable(wrapped):
            yield wrapped


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)
