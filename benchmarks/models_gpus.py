"""Whole models of full size through real ComfyUI: stock, and this pack on 1, 2, 4 … GPUs, in one run.

    python3 benchmarks/models_gpus.py --models sdxl,qwen,wan --out results.json   # on the machine's GPUs
    python3 benchmarks/models_gpus.py --out results.json --tiny                   # the same run in small, on CPU ranks

For each model: writes it with random bf16 weights, then queues workflows in a headless ComfyUI over its HTTP API, for
every engine in turn and then in the opposite order. Reported for each case and engine:

- milliseconds per step: the median of the times between progress events after the first step; where there is one such
  time only, the sampler node's time per step;
- milliseconds of the sampler node per step, which has everything in it (requests, latents, launching, waiting);
- how many times faster than stock ComfyUI in the same run;
- the latent's relative difference from stock's after one step, beside that of this pack on one GPU (its attention
  kernel is not ComfyUI's choice, so that is not zero). Cases of very long steps are compared after all their steps.

Results are written after every case; chart.py draws them.
The host is found as for the demo (COMFYUI_PATH, XDIT_PYTHON). --help lists the rest.
"""

import sys

from gpu_run.start import start

if __name__ == "__main__":
    sys.exit(start("models"))
