"""Which devices a configuration means on this machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import comfy.model_management
import torch

from .. import peer_memory
from ..config import DEFAULT_CPU_RANKS, ConfigError, parse_devices


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
        return DeviceSet("cuda", tuple(range(gpus))) if gpus else DeviceSet("cpu", tuple(range(DEFAULT_CPU_RANKS)))
    if kind == "cpu":
        return DeviceSet("cpu", indices)
    missing = [index for index in indices if index >= gpus]
    if missing:
        there = f"ComfyUI sees GPU 0 to {gpus - 1}" if gpus else "ComfyUI sees no GPU; use cpu:2 for two CPU ranks"
        raise ConfigError(f"devices {text!r}: no GPU {', '.join(map(str, missing))}; {there}")
    return DeviceSet("cuda", indices)


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
