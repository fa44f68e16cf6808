"""Watch a real ComfyUI sample one image on several processes, on any Linux machine, GPU or not.

    python3 scripts/demo.py [--output DIR]

Sets up what is missing, starts ComfyUI headless on the CPU, and queues a small Flux with random weights on two ranks
and on one. Ends with 0 only if both ran on as many processes as asked and gave the same latent.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from comfy_host import PACK_ROOT, SetupError, ensure_host
from comfy_host.cache import cache_dir


def main() -> int:
    parser = argparse.ArgumentParser(description="xDiT for ComfyUI on two CPU ranks and on one.")
    parser.add_argument("--output", type=Path, default=cache_dir() / "demo", help="where latents and logs go")
    output = parser.parse_args().output.absolute()
    try:
        host = ensure_host()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    # The rest needs torch and a websocket client, which the host's python has.
    here = PACK_ROOT / "scripts" / "demo_prompts.py"
    return subprocess.call([host.python, here, host.tree, output], stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
