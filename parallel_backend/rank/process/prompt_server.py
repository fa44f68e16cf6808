"""Node packs touch ComfyUI's web server when they are imported; in a rank there is none, and nothing happens."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType


class Inert:
    """Takes every attribute and call, and holds nothing; as a decorator it leaves the function as it is."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args, **kwargs):
        if len(args) == 1 and callable(args[0]) and not kwargs:
            return args[0]
        return self

    def __getitem__(self, key):
        return self

    def __setitem__(self, key, value):
        pass

    def __contains__(self, key):
        return False

    def __iter__(self):
        return iter(())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None


class _Loader(importlib.abc.Loader):
    """Runs ComfyUI's server.py and gives its class an inert instance."""

    def __init__(self, real: importlib.abc.Loader):
        self._real = real

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        module.PromptServer.instance = Inert()


class _Finder(importlib.abc.MetaPathFinder):
    """Finds `server`, which only packs import: it takes a second."""

    def __init__(self, comfy_root: str):
        self._comfy_root = comfy_root

    def find_spec(self, name, path=None, target=None):
        if name != "server":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, [self._comfy_root])
        if spec is None or spec.loader is None:
            return None
        spec.loader = _Loader(spec.loader)
        return spec


def install(comfy_root: str) -> None:
    """From now on `import server` gives ComfyUI's module without a server."""
    sys.meta_path.insert(0, _Finder(comfy_root))
