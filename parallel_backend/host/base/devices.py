"""Which devices a configuration means on this machine."""

from __future__ import annotations

import functools
import logging
import re
import sys
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch

from ...contract.config import DEFAULT_CPU_RANKS, ConfigError, parse_devices
from ...system import peer_memory

FAR_LESS = 4  # times
_CUDA = re.compile(r"(\d+)\.(\d)")
_BUILT = re.compile(r"(sm|compute)_(\d+)(\d)[af]?")  # in torch's list


@dataclass(frozen=True)
class DeviceSet:
    """The devices of a process group, one rank each; `indices`: ComfyUI's device numbers ("cuda") or ranks ("cpu")."""

    kind: str
    indices: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.indices)

    @property
    def share_memory(self) -> bool:
        """Whether they are GPUs that may write into each other's memory."""
        return self.kind == "cuda" and peer_memory.wanted() and peer_memory.reachable(self.indices)

    def name(self, rank: int) -> str:
        """The device of `rank`, in words."""
        return f"GPU {self.indices[rank]}" if self.kind == "cuda" else f"CPU rank {self.indices[rank]}"

    def __str__(self) -> str:
        return f"{self.size} CPU rank(s)" if self.kind == "cpu" else "GPU " + ",".join(map(str, self.indices))


def visible_gpus() -> int:
    """GPUs that ComfyUI sees and may use: 0 under --cpu."""
    if comfy.model_management.cpu_mode():
        return 0
    return torch.cuda.device_count()


def resolve(text: str) -> DeviceSet:
    """The device set that `text` (see parse_devices) means here. Raises ConfigError for devices that do not exist."""
    kind, indices = parse_devices(text)
    gpus = visible_gpus()
    if kind == "auto":
        return DeviceSet("cuda", _worth_using(gpus)) if gpus else DeviceSet("cpu", tuple(range(DEFAULT_CPU_RANKS)))
    if kind == "cpu":
        return DeviceSet("cpu", indices)
    missing = [index for index in indices if index >= gpus]
    if missing:
        there = f"ComfyUI sees GPU 0 to {gpus - 1}" if gpus else "ComfyUI sees no GPU; use cpu:2 for two CPU ranks"
        raise ConfigError(f"devices {text!r}: no GPU {', '.join(map(str, missing))}; {there}")
    return DeviceSet("cuda", indices)


def _worth_using(gpus: int) -> tuple[int, ...]:
    """Of GPU 0 to `gpus` - 1 those that auto takes. One with far less memory than the largest, a card for the display,
    or one that torch has no kernels for would hold the others up: all do equal shares of the work.
    """
    properties = [torch.cuda.get_device_properties(index) for index in range(gpus)]
    largest = max(one.total_memory for one in properties)
    reasons: dict[int, str] = {}
    for index, one in enumerate(properties):
        if not has_kernels(architecture(one)):
            reasons[index] = f"this torch has no kernels for {architecture(one)}"
        elif one.total_memory * FAR_LESS < largest:
            reasons[index] = f"it has {one.total_memory / 2**30:.1f} GiB, the largest {largest / 2**30:.1f} GiB"
    if len(reasons) == gpus:
        return tuple(range(gpus))
    for index, reason in reasons.items():
        _say_once(
            f"auto leaves GPU {index} ({properties[index].name}) out: {reason}; to use it too, name all devices in"
            f" Parallel Config: {','.join(map(str, range(gpus)))}"
        )
    return tuple(index for index in range(gpus) if index not in reasons)


@functools.cache
def _say_once(line: str) -> None:
    logging.info("xDiT: %s", line)


def architecture(properties: Any) -> str:
    """What kernels are built for, of a GPU's properties: "9.0" with CUDA, "gfx942" with ROCm."""
    if torch.version.hip is not None and (name := getattr(properties, "gcnArchName", None)):
        return name.partition(":")[0]
    return f"{properties.major}.{properties.minor}"


def has_kernels(architecture: str) -> bool:
    """Whether torch was built for GPUs of this architecture (see above): as it is, for an older one of its generation,
    or as PTX for any older one. True where torch does not say.
    """
    built = torch.cuda.get_arch_list()
    if not built or architecture in built:
        return True
    if any(name.endswith("-generic") for name in built):  # of a generation of AMD's
        return True
    if not (own := _CUDA.fullmatch(architecture)):
        return False
    numbers = tuple(map(int, own.groups()))
    for name in built:
        if (match := _BUILT.fullmatch(name)) is None:
            continue
        older = (int(match[2]), int(match[3]))
        if older <= numbers and (match[1] == "compute" or older[0] == numbers[0]):
            return True
    return False


def ranks_by_device(devices: DeviceSet) -> dict[torch.device, tuple[int, ...]]:
    """The ranks on each of ComfyUI's devices; all CPU ranks are on one."""
    if devices.kind == "cpu":
        return {torch.device("cpu"): tuple(range(devices.size))}
    return {torch.device("cuda", index): (rank,) for rank, index in enumerate(devices.indices)}


def require_linux() -> None:
    """Raises ConfigError where ranks cannot run: the nodes are registered there all the same."""
    if not sys.platform.startswith("linux"):
        raise ConfigError(
            "xDiT for ComfyUI runs on Linux (WSL2 included); here its nodes are registered but cannot sample"
        )
