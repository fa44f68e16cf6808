"""FLUX.1-dev's shape through real ComfyUI: stock, and this pack on 1, 2, 4 … GPUs, in one run.

    python3 benchmarks/flux_gpus.py --out results.json          # on the machine's GPUs
    python3 benchmarks/flux_gpus.py --out results.json --tiny   # the same run in small, on CPU ranks

Writes a full-size model with random bf16 weights, starts ComfyUI headless and queues workflows over its HTTP API:

- speed at 1024² and 2048²: milliseconds per step (median of the times between progress events after the second step),
  seconds of a warm prompt with a new seed, and what lies between (seconds - steps × milliseconds per step);
- error against the same workflow in fp32: plain, with LoRA, with ControlNet, with conditioning that lies on the GPU.

The host is found as for the demo (COMFYUI_PATH, XDIT_PYTHON). --help lists the rest.
"""

import sys

from gpu_run.start import start

if __name__ == "__main__":
    sys.exit(start("flux"))
