"""Finds or sets up the ComfyUI host, and prints where it is.

    python3 scripts/host.py

COMFYUI_PATH names a ComfyUI tree, XDIT_CACHE the cache directory, XDIT_PYTHON a python that already has everything.
"""

import sys

from comfy_host import SetupError, ensure_host


def main() -> int:
    try:
        host = ensure_host()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"ComfyUI: {host.tree}\npython:  {host.python}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
