"""A published node pack: graphs with its nodes, each beside stock ComfyUI, through a real server of its own.

    python3 scripts/packs.py --pack FOLDER --name OWNER/NAME --commit COMMIT --graph FILE … [--site FOLDER]
        [--kind loader stock] [--degrees ulysses=2 cfg=2]

Adds to docs/packs.json. The pack's files lie in a folder outside this repository, and so do the packages it needs.
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
    command = [host.python, "-m", "support.random_graphs.packs", *sys.argv[1:]]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
