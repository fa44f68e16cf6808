"""Graphs composed by chance from ComfyUI's nodes and from nodes of packs, each beside stock ComfyUI, through a real
server; writes docs/graphs.json and docs/custom-nodes.md.

    python3 scripts/graphs.py [--count 500] [--only NUMBER …] [--show NUMBER] [--nodes] [--minutes 9] [--again]

Each outcome is kept at once, with the commit that it ran on; run it again to go on with what is missing.
"""

import sys

from comfy_host import PACK_ROOT
from comfy_host.support import run_support

if __name__ == "__main__":
    sys.exit(run_support("random_graphs", PACK_ROOT / "docs"))
