"""Where this pack keeps what it measured and compiled on a machine."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Entry = TypeVar("Entry")


def cache_directory() -> Path:
    """XDIT_CACHE, else xdit-comfyui in the user's cache directory. It need not exist."""
    if named := os.environ.get("XDIT_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "xdit-comfyui"


def write_entries(path: Path, version: int, entries: list[Any]) -> None:
    """Write `path` as a whole or not at all. Raises OSError when it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.stem}.", delete=False) as file:
        json.dump({"format": version, "measurements": entries}, file, indent=1)
    os.replace(file.name, path)


def read_entries(path: Path, version: int, parse: Callable[[Any], Entry]) -> list[Entry]:
    """What write_entries wrote, each through `parse`; nothing where there is no file, or one of another version.

    Raises ValueError, which names the file, for one that cannot be read or is not what was written.
    """
    try:
        content = json.loads(path.read_text())
        if content["format"] != version:
            return []
        return [parse(entry) for entry in content["measurements"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is ignored, and written anew: {type(error).__name__}: {error}") from error
