"""Where this pack keeps what it measured and compiled on a machine."""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from .file_lock import locked

Entry = TypeVar("Entry")
BUSY_SECONDS, POLL_SECONDS = 5.0, 0.01  # how long another process may be writing


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


def add_entry(
    path: Path, version: int, entry: Any, kept: int, parse: Callable[[Any], Entry], same: Callable[[Entry], bool]
) -> None:
    """Write `entry` as the newest of at most `kept`, in the place of what it is the `same` as; what others wrote
    stays, also when several processes do this at once. A file that cannot be read is written anew.

    Raises OSError when it cannot be written, or another process does not stop writing.
    """
    with _alone(path):
        try:
            known = read_entries(path, version, lambda raw: (raw, parse(raw)))
        except ValueError:
            known = []
        others = [raw for raw, parsed in known if not same(parsed)]
        write_entries(path, version, [*others, entry][-kept:])


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process is in here for `path`. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        with open(lock, "a") as file:
            if locked(file) and _is_still(lock, file):
                try:
                    yield
                finally:
                    lock.unlink()  # while it is locked: who waits for this one sees that it is gone
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process has been writing {path} for {BUSY_SECONDS:g} s")
        time.sleep(POLL_SECONDS)


def _is_still(path: Path, file: IO) -> bool:
    """Whether `path` names the open `file`, and not another one made since."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
