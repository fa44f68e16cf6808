"""Everything in one run on a machine with N GPUs: stock ComfyUI, this pack and xDiT on 1, 2, 4 … N, tables, a figure.

    python3 benchmarks/harness.py --out FOLDER                     # writes models.json, xdit.json and scaling.png there
    python3 benchmarks/harness.py --out FOLDER --tiny --models flux   # the same in small, on CPU ranks

First models_gpus.py (whole models through ComfyUI's server), then xdit_flux.py (one call of Flux without the server,
xDiT in xfuser's own wrapper), then scaling.py; each says in its first lines what it does. They share the time that
--budget-seconds gives. The host is found as for the demo (COMFYUI_PATH, XDIT_PYTHON).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "scripts"))
from comfy_host import SetupError, ensure_host  # noqa: E402

XDIT_SHARE = 0.5  # of the time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--models", default="flux,sdxl,qwen,wan", help="of models_gpus.py, in this order")
    parser.add_argument("--compile", choices=("off", "on"), default="on", help="what this pack does with the blocks")
    parser.add_argument("--repeats", default="2", help="passes over all engines, every second one backwards")
    parser.add_argument("--budget-seconds", type=float, default=3600)
    parser.add_argument("--server-flag", action="append", default=[], help="a further flag for ComfyUI")
    parser.add_argument("--profile", action="store_true", help="where the time of a call of Flux goes, by kernels")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    try:
        host = ensure_host()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    tiny = ["--tiny"] if options.tiny else []
    models, xdit, figure = (options.out / name for name in ("models.json", "xdit.json", "scaling.png"))
    seconds = [options.budget_seconds * share for share in (1 - XDIT_SHARE, XDIT_SHARE)]
    shared = ["--repeats", options.repeats, *tiny]
    flags = [f"--server-flag={flag}" for flag in options.server_flag]
    commands = [
        ["gpu_run/run.py", "models", "--tree", host.tree, "--out", models, "--models", options.models, *shared, *flags]
        + ["--compile", "off" if options.tiny else options.compile, "--budget-seconds", seconds[0]],
        ["xdit_flux.py", "--comfyui", host.tree, "--out", xdit, *shared, "--budget-seconds", seconds[1]]
        + ["--profile"] * options.profile,
        ["scaling.py", "--out", figure, models, xdit],
    ]
    codes = [
        subprocess.call([host.python, HERE / script, *map(str, arguments)], stdin=subprocess.DEVNULL)
        for script, *arguments in commands
    ]
    print(f"\n{models}\n{xdit}\n{figure}", flush=True)
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main())
