"""Measures every model case, sharded in every way, and writes docs/models.json and docs/models.md.

    python3 scripts/model_table.py [--minutes 9] [--only TEXT] [--again]

Each result is kept at once, with the commit that it ran on; run it again to go on with what is missing.
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
    # In the host's environment, with the ranks' and cases' helpers of the tests.
    environment = {**os.environ, "COMFYUI_PATH": str(host.tree), "PYTHONPATH": str(PACK_ROOT / "tests")}
    command = [host.python, "-m", "support.model_table", *sys.argv[1:]]
    return subprocess.run(command, cwd=PACK_ROOT / "docs", env=environment, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
