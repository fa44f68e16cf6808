"""Node packs touch ComfyUI's web server when they are imported; in a rank there is none, and nothing happens."""

from __future__ import annotations

import sys
import types


class Inert:
    """Takes every attribute and call; as a decorator it leaves the function as it is."""

    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        if len(args) == 1 and callable(args[0]) and not kwargs:
            return args[0]
        return self


def install() -> None:
    """Stand in for ComfyUI's `server` module."""
    module = types.ModuleType("server")
    module.PromptServer = type("PromptServer", (), {"instance": Inert()})
    sys.modules.setdefault("server", module)
