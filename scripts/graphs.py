"""Graphs composed by chance from ComfyUI's nodes and from nodes of packs, each beside stock ComfyUI, through a real
server; writes docs/graphs.json and docs/custom-nodes.md.

    python3 scripts/graphs.py [--count 500] [--only NUMBER …] [--show NUMBER] [--nodes] [--minutes 9] [--again]

Each outcome is kept at once, with the commit that it ran on; run it again to go on with what is missing.
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
    command = [host.python, "-m", "support.random_graphs", *sys.argv[1:]]
    return subprocess.run(command, cwd=PACK_ROOT / "docs", env=environment, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
