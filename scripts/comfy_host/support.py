"""Running a module of tests/support in the host's python, set up first if needed."""

import os
import subprocess
import sys
from pathlib import Path

from . import PACK_ROOT, SetupError, ensure_host


def run_support(module: str, folder: Path | None = None) -> int:
    """`python -m support.<module>` with this process's arguments, in `folder` or where this process is; its exit code.
    1 when the host cannot be set up, with what is wrong on stderr.
    """
    try:
        host = ensure_host()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    paths = os.pathsep.join(str(PACK_ROOT / name) for name in ("tests", "scripts"))
    environment = {**os.environ, "COMFYUI_PATH": str(host.tree), "PYTHONPATH": paths}
    command = [host.python, "-m", f"support.{module}", *sys.argv[1:]]
    return subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL).returncode
