"""ComfyUI's modules in a rank are, while a request runs, what they are in ComfyUI's process, and else as they were.

What node packs replace there as they are imported in the rank stays between requests, for packs that are imported later
and build on it; while a request is read and runs, only what the host names is replaced.
"""

from __future__ import annotations

import importlib
import operator
import sys
import types
from collections.abc import Callable
from typing import Any

from ...contract.payload import Carried
from ...foreign.code_origin import is_foreign_file
from ...foreign.replaced_functions import all_modules, find_replaced, namespaces

_MISSING = object()


class NoOriginal(RuntimeError):
    """A function of ComfyUI that a pack replaced before this process looked at its module."""


class Replacements:
    """Made before any pack is imported; then, for each request, `begin` before it is read, `apply` when it is, and
    `end` when it is over.
    """

    def __init__(self):
        self._own: dict[tuple[str, str], dict[str, Any]] = {}  # what ComfyUI's modules and classes define
        self._undo: list[Callable[[], None]] = []
        self._looked_at = 0  # modules
        self._packs = False  # whether any was imported
        self.remember()

    def remember(self) -> None:
        """ComfyUI's modules that were loaded since, as they are, but for what a pack has replaced there already."""
        known = {module for module, _ in self._own}
        new = [name for name in all_modules() if name not in known]
        for module, prefix, owner in namespaces(new):
            self._own[module, prefix] = dict(vars(owner))
        for one in find_replaced() if new and known else ():
            if one.module in new:
                owner, _, attribute = one.name.rpartition(".")
                self._own[one.module, f"{owner}." if owner else ""].pop(attribute, None)

    def begin(self) -> None:
        """ComfyUI's own functions and classes everywhere, as far as a pack replaced them in this process."""
        if len(sys.modules) != self._looked_at:
            self._packs = any(
                is_foreign_file(getattr(one, "__file__", None) or "") for one in list(sys.modules.values())
            )
            self.remember()
            self._looked_at = len(sys.modules)
        if self._packs:
            for one in find_replaced():
                self._put(one.module, one.name, self.original(one.module, one.name))

    def apply(self, carried: Carried) -> None:
        """What the request brought. Raises ImportError, AttributeError when there is no such place here."""
        if len(sys.modules) != self._looked_at:  # reading it imported something
            self.begin()
        for module, name, value in carried.replaced:
            importlib.import_module(module)
            self._put(module, name, value)
        for module, path, value in carried.settings:
            importlib.import_module(module)
            self._put(module, path, value)

    def end(self) -> None:
        """As before `begin`."""
        while self._undo:
            self._undo.pop()()

    def original(self, module: str, name: str) -> Any:
        """What ComfyUI's module defines as `name`. Raises NoOriginal."""
        owner, _, attribute = name.rpartition(".")
        prefix = f"{owner}." if owner else ""
        own = self._own.get((module, prefix), {})
        if attribute not in own:
            if owner and not self._loaded_late(module):
                return _MISSING  # a method that a pack added to the class
            raise NoOriginal(
                f"a node pack replaced {module}.{name} of ComfyUI before the ranks looked at it: load {module} first"
            )
        return own[attribute]

    def function(self, module: str, name: str) -> Any:
        """As `original`, but what getting it from its class gives, as a request refers to it."""
        found = self.original(module, name)
        return found.__func__ if isinstance(found, staticmethod | classmethod) else found

    def _loaded_late(self, module: str) -> bool:
        return (module, "") not in self._own

    def _put(self, module: str, path: str, value: Any) -> None:
        owner_path, _, name = path.rpartition(".")
        owner = sys.modules[module]
        if owner_path:
            owner = operator.attrgetter(owner_path)(owner)
        before = vars(owner).get(name, _MISSING)
        self._undo.append(lambda: _set(owner, name, before))
        _set(owner, name, value)


def _set(owner: types.ModuleType | type, name: str, value: Any) -> None:
    if value is not _MISSING:
        setattr(owner, name, value)
    elif name in vars(owner):
        delattr(owner, name)
