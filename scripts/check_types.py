"""Checks the types of nodes/ and parallel_backend/ with mypy, in the host's environment.

python3 scripts/check_types.py [arguments for mypy]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from comfy_host import PACK_ROOT, Host, SetupError, cache_dir, ensure_host

# The checkout is a package whose folder may have any name; mypy knows it by the one that the tests import it by.
PACKAGE = "xdit_comfyui"


def check_types(host: Host, arguments: list[str]) -> int:
    """mypy's exit status. Its cache lies outside the checkout."""
    with tempfile.TemporaryDirectory(prefix="xdit-types-") as folder:
        (Path(folder) / PACKAGE).symlink_to(PACK_ROOT, target_is_directory=True)
        command = [
            *(host.python.parent / "mypy", "--config-file", PACK_ROOT / "pyproject.toml"),
            *("--cache-dir", cache_dir() / "mypy", "--explicit-package-bases", *arguments),
            *(f"{PACKAGE}/nodes", f"{PACKAGE}/parallel_backend"),
        ]
        return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL).returncode


def main() -> int:
    try:
        host = ensure_host()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return check_types(host, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
