"""Where this pack keeps what it measured and compiled on a machine."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """XDIT_CACHE, else xdit-comfyui in the user's cache directory. It need not exist."""
    if named := os.environ.get("XDIT_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "xdit-comfyui"
