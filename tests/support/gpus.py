"""Tests on two real GPUs: what they need, and a ComfyUI for them. They need no internet and no front end of ComfyUI."""

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from comfy_host import PACK_ROOT, Host
from comfy_host.instance import ComfyInstance, make_base_directory

from .console import watch

DEVICES = "0,1"
GPUS = 2
TOLERANCE = 1e-3  # fp32; kernels are chosen by sizes, which differ where work is divided
NEEDED = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < GPUS, reason="needs two NVIDIA GPUs")]
SUPPORT = PACK_ROOT / "tests" / "support"
PACKS = {"xdit-test-nodes": SUPPORT / "host_nodes", "xdit-test-faults": SUPPORT / "fault_nodes"}


@contextlib.contextmanager
def gpu_instance(host: Host, base: Path, environment: Mapping[str, str] | None = None) -> Iterator[ComfyInstance]:
    """A running ComfyUI in the new folder `base`, in fp32, with the test nodes."""
    make_base_directory(base, PACKS)
    environment = {"XDIT_CACHE": str(base / "cache"), **(environment or {})}
    with ComfyInstance(host, base, _flags(base), environment) as instance:
        watch(instance)
        yield instance
        print(instance.log_tail(400))  # pytest shows it where a test failed


def _flags(base: Path) -> list[str]:
    """Without its package ComfyUI has no front end to show, and needs a folder in its place."""
    if importlib.util.find_spec("comfyui_frontend_package") is not None:
        return ["--force-fp32"]
    (base / "front").mkdir()
    (base / "front" / "index.html").touch()
    return ["--force-fp32", "--front-end-root", str(base / "front")]
