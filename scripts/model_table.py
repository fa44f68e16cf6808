"""Measures every model case, sharded in every way, and writes docs/models.json and docs/models.md.

    python3 scripts/model_table.py [--minutes 9] [--only TEXT] [--again]

Each result is kept at once, with the commit that it ran on; run it again to go on with what is missing.
"""

import sys

from comfy_host import PACK_ROOT
from comfy_host.support import run_support

if __name__ == "__main__":
    sys.exit(run_support("model_table", PACK_ROOT / "docs"))
