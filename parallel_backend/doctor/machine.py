"""The machine: GPUs, driver, how the GPUs are connected, and the environment that NCCL reads."""

from __future__ import annotations

import os
import shutil
from itertools import combinations

import torch

from ..host.base import nvidia_smi
from ..host.base.devices import DeviceSet, architecture, has_kernels, visible_gpus
from .report import Gpu, Pair, Problem, Report

PREFIXES = ("NCCL_", "TORCH_NCCL_", "GLOO_", "XDIT_")
NAMES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
)
SHARED_MEMORY = 512 << 20  # bytes in /dev/shm with which NCCL got by wherever GPUs exchange through it
REINSTALL_DRIVER = "reinstall the NVIDIA driver (in a container: start it with the GPUs) and restart the machine"


def examine_machine(report: Report, devices: DeviceSet | None) -> None:
    """Fill in what can be seen without running anything on a GPU. `devices`: None without a GPU."""
    report.environment = {
        name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIXES) or name in NAMES
    }
    rows, kinds = _nvidia_smi(report)
    report.driver = rows[0].driver if rows else None
    report.gpus = [_gpu(index, rows) for index in range(visible_gpus())]
    if len(rows) > len(report.gpus):
        report.problems.append(_unseen(len(rows), len(report.gpus)))
    for gpu in report.gpus:
        if not has_kernels(gpu.capability):
            report.problems.append(
                Problem(
                    f"GPU {gpu.index} ({gpu.name}) has capability {gpu.capability}; this torch is built for"
                    f" {', '.join(torch.cuda.get_arch_list())}",
                    "install a torch build that lists this GPU's architecture, or leave the GPU out of `devices`",
                )
            )
    if devices is None:
        return
    number = {row.uuid.removeprefix("GPU-"): row.index for row in rows}
    for a, b in combinations(sorted(devices.indices), 2):
        report.pairs.append(_pair(a, b, report.gpus, number, kinds) if devices.kind == "cuda" else Pair((a, b)))
    if devices.kind == "cuda" and devices.size > 1:
        _check_transport(report)


def _nvidia_smi(report: Report) -> tuple[list[nvidia_smi.GpuRow], dict[tuple[int, int], str]]:
    """The GPUs and their connections; on failure a problem, where a GPU is expected."""
    try:
        rows = nvidia_smi.gpus()
        return rows, nvidia_smi.topology() if len(rows) > 1 else {}
    except nvidia_smi.NvidiaSmiError as error:
        there = shutil.which("nvidia-smi") is not None
        if there:
            report.problems.append(Problem(str(error), REINSTALL_DRIVER))
        elif visible_gpus():
            report.problems.append(
                Problem(
                    f"{error}: free memory and the kind of the links are unknown",
                    "install the driver's utilities (nvidia-utils)",
                )
            )
        return [], {}


def _gpu(index: int, rows: list[nvidia_smi.GpuRow]) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    uuid = str(properties.uuid)
    free = next((row.memory_free for row in rows if row.uuid.removeprefix("GPU-") == uuid), None)
    return Gpu(index, properties.name, uuid, architecture(properties), properties.total_memory, free)


def _unseen(there: int, seen: int) -> Problem:
    what = f"nvidia-smi lists {there} GPU(s), torch sees {seen}"
    if torch.version.cuda is None:
        return Problem(f"{what}: this torch is built {_other_than_cuda()}", "install torch's CUDA build")
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return Problem(
            f"{what}: CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}", "change it to use the others too"
        )
    return Problem(
        f"{what}, built for CUDA {torch.version.cuda}",
        "update the NVIDIA driver to one that knows this CUDA, or install a torch build for an older CUDA",
    )


def _other_than_cuda() -> str:
    return "without CUDA" if torch.version.hip is None else f"for ROCm {torch.version.hip}"


def _pair(a: int, b: int, gpus: list[Gpu], number: dict[str, int], kinds: dict[tuple[int, int], str]) -> Pair:
    first, second = (number.get(gpus[index].uuid) for index in (a, b))
    kind = None if first is None or second is None else kinds.get((min(first, second), max(first, second)))
    access = torch.cuda.can_device_access_peer(a, b) and torch.cuda.can_device_access_peer(b, a)
    return Pair((a, b), kind, access)


def _check_transport(report: Report) -> None:
    """What keeps NCCL from the fast way, or from any."""
    peers = [pair for pair in report.pairs if pair.peer_access]
    if peers and os.environ.get("NCCL_P2P_DISABLE", "0") not in ("", "0"):
        report.problems.append(
            Problem(
                "NCCL_P2P_DISABLE is set, so GPUs that could reach each other directly exchange through host memory",
                "unset it and run the doctor again; set it back if ranks then fail or data arrives changed",
            )
        )
    if len(peers) < len(report.pairs) or "NCCL_P2P_DISABLE" in os.environ:
        free = shutil.disk_usage("/dev/shm").free
        if free < SHARED_MEMORY:
            report.problems.append(
                Problem(
                    f"/dev/shm has {free >> 20} MiB free; GPUs without peer access exchange through it",
                    f"give it {SHARED_MEMORY >> 20} MiB or more (docker run --shm-size=1g)",
                )
            )
