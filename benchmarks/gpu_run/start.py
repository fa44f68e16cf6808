"""Finds the host, then runs the benchmark in the host's python, which has torch and a websocket client."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
sys.path.append(str(ROOT / "scripts"))
from comfy_host import SetupError, ensure_host  # noqa: E402


def start(benchmark: str) -> int:
    """Run `benchmark` ("flux" or "models") with this process's arguments; gives its exit code."""
    try:
        host = ensure_host()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    command = [host.python, Path(__file__).with_name("run.py"), benchmark, "--tree", host.tree, *sys.argv[1:]]
    return subprocess.call(command, stdin=subprocess.DEVNULL)
