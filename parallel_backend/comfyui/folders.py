"""ComfyUI's folders as they are in its process: flags, extra_model_paths.yaml and node packs change them."""

from __future__ import annotations

import os
from typing import Any

import folder_paths

DIRECTORIES = ("output", "temp", "input", "user")


def described() -> dict[str, Any]:
    """This process's folders, for JSON."""
    return {
        "directories": {name: getattr(folder_paths, f"get_{name}_directory")() for name in DIRECTORIES},
        "models": {
            name: ([os.fspath(path) for path in paths], [str(extension) for extension in extensions])
            for name, (paths, extensions) in folder_paths.folder_names_and_paths.items()
        },
    }


def take_over(folders: dict[str, Any]) -> None:
    """Make the folders of another process, as `described` gave them, those of this one."""
    for name, path in folders["directories"].items():
        getattr(folder_paths, f"set_{name}_directory")(path)
    for name, (paths, extensions) in folders["models"].items():
        folder_paths.folder_names_and_paths[name] = (list(paths), set(extensions))
