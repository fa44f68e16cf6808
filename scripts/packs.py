"""Published node packs: graphs around their nodes, each beside stock ComfyUI, through a real server; docs/packs.json.

    python3 scripts/packs.py --packs FOLDER [--site FOLDER] [--only OWNER/NAME …] [--minutes 9] [--again]

FOLDER holds a folder of each pack in tests/support/random_graphs/packs.json, outside this repository.
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
