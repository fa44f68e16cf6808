"""What the machine is: GPUs, their link, versions."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("torch", "xfuser", "diffusers", "comfy-aimdo", "comfy-kitchen", "safetensors", "numpy", "nvidia-cudnn-cu13")


def about(tree: Path, script: str) -> dict:
    """Plain data for the results file; `script` is what the person started, with this process's arguments."""
    version = next(line for line in (tree / "comfyui_version.py").read_text().splitlines() if "__version__" in line)
    return {
        "command": " ".join(["python3", script, *sys.argv[3:]]),
        "gpus": nvidia_smi("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader").splitlines(),
        "link": nvidia_smi("topo", "-m"),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "versions": {
            "ComfyUI": version.split('"')[1],
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
    }


def gpu_memory_mib() -> list[int]:
    """Memory in use on each GPU."""
    return [int(line) for line in nvidia_smi("--query-gpu=memory.used", "--format=csv,noheader,nounits").splitlines()]


def nvidia_smi(*arguments: str) -> str:
    """Its output; nothing on a machine without NVIDIA GPUs."""
    if shutil.which("nvidia-smi") is None:
        return ""
    return subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=30).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
