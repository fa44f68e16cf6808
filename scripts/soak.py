"""Queues many prompts on a real ComfyUI, cancels some, kills ranks, switches models; writes docs/reliability.md.

    python3 scripts/soak.py [--prompts 300] [--kills 12] [--seed 1] [--minutes 9] [--again]

Each outcome is kept at once in docs/reliability.json; run it again to go on, with a new server, with what is missing.
"""

import os
import subprocess
import sys

from comfy_host import PACK_ROOT, SetupError, ensure_host


def main() -> int:
    try:
        host = ensure_host()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    paths = os.pathsep.join(str(PACK_ROOT / name) for name in ("tests", "scripts"))
    environment = {**os.environ, "COMFYUI_PATH": str(host.tree), "PYTHONPATH": paths}
    command = [host.python, "-m", "support.soak", *sys.argv[1:]]
    return subprocess.run(command, cwd=PACK_ROOT / "docs", env=environment, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
