"""The user cache directory: where it is, who may change it, what set-up says while it works."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class SetupError(RuntimeError):
    """The host could not be set up; the message says what to do."""


def cache_dir() -> Path:
    """XDIT_CACHE, else xdit-comfyui in the user's cache directory."""
    if named := os.environ.get("XDIT_CACHE"):
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "xdit-comfyui"


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Only one process at a time sets up in this cache; others wait."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(line: str) -> None:
    print(f"[host] {line}", file=sys.stderr, flush=True)


def run_logged(command: Sequence[str | Path], log: Path) -> None:
    """Run a command with its output in `log`; on failure show the end of it."""
    with open(log, "a") as out:
        out.write(f"$ {' '.join(map(str, command))}\n")
        out.flush()
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise SetupError(f"{Path(command[0]).name} ended with code {code}. The end of {log}:\n{tail}")
