"""Where this pack keeps what it measured and compiled on a machine."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def cache_directory() -> Path:
    """XDIT_CACHE, else xdit-comfyui in the user's cache directory. It need not exist."""
    if named := os.environ.get("XDIT_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "xdit-comfyui"


def write_json(path: Path, content: Any) -> None:
    """Write `path` as a whole or not at all. Raises OSError when it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.stem}.", delete=False) as file:
        json.dump(content, file, indent=1)
    os.replace(file.name, path)
