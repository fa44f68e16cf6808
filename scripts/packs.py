"""Published node packs: graphs around their nodes, each beside stock ComfyUI, through a real server; docs/packs.json.

    python3 scripts/packs.py --packs FOLDER [--site FOLDER] [--only OWNER/NAME …] [--minutes 9] [--again]

FOLDER holds a folder of each pack in tests/support/random_graphs/packs.json, outside this repository.
"""

import sys

from comfy_host.support import run_support

if __name__ == "__main__":
    sys.exit(run_support("random_graphs.packs"))
