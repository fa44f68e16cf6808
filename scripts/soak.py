"""Queues many prompts on a real ComfyUI, cancels some, kills ranks, switches models; writes docs/reliability.md.

    python3 scripts/soak.py [--prompts 300] [--kills 12] [--seed 1] [--minutes 9] [--again]

Each outcome is kept at once in docs/reliability.json; run it again to go on, with a new server, with what is missing.
"""

import sys

from comfy_host import PACK_ROOT
from comfy_host.support import run_support

if __name__ == "__main__":
    sys.exit(run_support("soak", PACK_ROOT / "docs"))
