"""Run by the host's python: `run.py flux|models --tree COMFYUI …`."""

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]

if __name__ == "__main__":
    sys.path[:1] = [str(ROOT / folder) for folder in ("benchmarks", "scripts", "tests")]  # for this folder
    benchmark = sys.argv.pop(1)
    sys.exit(importlib.import_module(f"gpu_run.{benchmark}.main").main())
