"""Which node pack a module belongs to. ComfyUI imports a pack under its path as a name, so ranks need name and file.

A pack is a folder or a single file; ComfyUI's own comfy_extras are imported as single files, too. Its other modules are
submodules (`/…/custom_nodes/pack.nodes`), or modules of any name below a folder that the pack put on sys.path.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

_known: dict[str, tuple[ModuleType, str | None]] = {}


def pack_of(module_name: str) -> str | None:
    """The name, in sys.modules, of the pack whose import makes this module importable; None where none is needed."""
    module = sys.modules.get(module_name)
    if module is None:  # taken out again by who imported it
        return _by_name(module_name)
    known = _known.get(module_name)
    if known is None or known[0] is not module:
        known = _known[module_name] = module, _by_name(module_name) or _by_file(module)
    return known[1]


def in_order(packs: dict[str, str]) -> dict[str, str]:
    """`packs`, name → file, in the order in which ComfyUI imported them."""
    if len(packs) < 2:
        return packs
    imported = list(sys.modules)
    return dict(sorted(packs.items(), key=lambda item: imported.index(item[0])))


def _by_name(name: str) -> str | None:
    found = None
    while "/" in name:
        if getattr(sys.modules.get(name), "__file__", None) is not None:
            found = name
        name = name.rpartition(".")[0]
    return found


def _by_file(module: ModuleType) -> str | None:
    """The pack in whose folder lies the file of a module that another name was given."""
    file = getattr(module, "__file__", None)
    if not file:
        return None
    folders = {
        folder: name
        for name, pack in sys.modules.copy().items()
        if "/" in name and "." not in name and hasattr(pack, "__path__")
        if (top := getattr(pack, "__file__", None)) is not None
        for folder in (os.path.dirname(top), os.path.dirname(os.path.realpath(top)))
    }
    for path in (file, os.path.realpath(file)):
        while path != (path := os.path.dirname(path)):
            if path in folders:
                return folders[path]
    return None
