"""Finds or makes a real ComfyUI and runs instances of it, for the demo, the tests and CI.

Needs nothing but the standard library, so that it runs before anything is installed.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells people so
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]} ({sys.executable}).")

from .cache import SetupError, cache_dir, locked
from .environment import ensure_environment
from .tree import PACK_ROOT, find_tree, unpacked_tree

__all__ = ["PACK_ROOT", "Host", "SetupError", "cache_dir", "ensure_host"]


@dataclass(frozen=True)
class Host:
    """A ComfyUI source tree and the python that runs it."""

    tree: Path
    python: Path


def ensure_host() -> Host:
    """The host, set up if needed.

    Tree: the ComfyUI around the pack, else COMFYUI_PATH, else the pinned release in the cache.
    Python: XDIT_PYTHON as it is, else an environment of our own in the cache. Neither a user's ComfyUI tree nor a
    user's environment is changed.
    """
    cache = cache_dir()
    with locked(cache):
        tree = find_tree() or unpacked_tree(cache)
        if named := os.environ.get("XDIT_PYTHON"):
            return Host(tree, Path(named).expanduser().absolute())
        return Host(tree, ensure_environment(cache, tree, PACK_ROOT))
