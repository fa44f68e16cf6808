"""PipeFusion in configurations drawn by chance, through a real ComfyUI; writes docs/pipefusion.json and .md.

    python3 scripts/pipelines.py [--count 200] [--minutes 9] [--again]

Each outcome is kept at once, with the commit that it ran on; run it again to go on with what is missing.
"""

import sys

from comfy_host import PACK_ROOT
from comfy_host.support import run_support

if __name__ == "__main__":
    sys.exit(run_support("random_pipelines", PACK_ROOT / "docs"))
