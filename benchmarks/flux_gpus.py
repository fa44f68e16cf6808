"""FLUX.1-dev's shape through real ComfyUI: stock, and this pack on one GPU and on two, in one run.

    python3 benchmarks/flux_gpus.py --out results.json          # on the machine's GPUs
    python3 benchmarks/flux_gpus.py --out results.json --tiny   # the same run in small, on CPU ranks

Writes a full-size model with random bf16 weights, starts ComfyUI headless and queues workflows over its HTTP API:

- speed at 1024² and 2048²: milliseconds per step (median of the times between progress events after the second step),
  seconds of a warm prompt with a new seed, and what lies between (seconds - steps × milliseconds per step);
- error against the same workflow in fp32: plain, with LoRA, with ControlNet, with conditioning that lies on the GPU.

The host is found as for the demo (COMFYUI_PATH, XDIT_PYTHON). --help lists the rest.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]
sys.path.append(str(ROOT / "scripts"))
from comfy_host import SetupError, ensure_host  # noqa: E402


def main() -> int:
    try:
        host = ensure_host()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    # The rest needs torch and a websocket client, which the host's python has.
    run = Path(__file__).absolute().parent / "flux_run" / "main.py"
    return subprocess.call([host.python, run, "--tree", host.tree, *sys.argv[1:]], stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
