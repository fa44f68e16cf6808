"""Starting one rank: its environment, its arguments, its log, its private channel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import folder_paths

from ..transport.channel import Channel
from .devices import DeviceSet

PACK_ROOT = Path(__file__).resolve().parents[2]
PACK_NAME = __name__.removesuffix(".parallel_backend.host.launch")
BOOTSTRAP = PACK_ROOT / "parallel_backend" / "rank" / "bootstrap.py"
LOOPBACK = "lo"
ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


@dataclass(frozen=True)
class Timeouts:
    """Seconds. `start`: until every rank is ready; `collective`: torch.distributed's; `stop`: an orderly end."""

    start: float = 180.0
    collective: float = 600.0
    stop: float = 5.0

    @classmethod
    def from_environment(cls) -> Timeouts:
        """XDIT_START_TIMEOUT and XDIT_COLLECTIVE_TIMEOUT, in seconds."""
        return cls(
            start=float(os.environ.get("XDIT_START_TIMEOUT", cls.start)),
            collective=float(os.environ.get("XDIT_COLLECTIVE_TIMEOUT", cls.collective)),
        )


@dataclass
class RankProcess:
    rank: int
    device: str
    process: subprocess.Popen
    channel: Channel
    log: Path

    def log_tail(self, lines: int = 12) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def log_directory() -> Path:
    directory = Path(folder_paths.get_user_directory()) / "xdit"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def start_rank(rank: int, devices: DeviceSet, store: int, timeouts: Timeouts, log_level: int) -> RankProcess:
    """Start the process of `rank`; it answers with Ready over its channel.

    `store` is the descriptor of the file through which the ranks find each other.
    """
    channel, theirs = Channel.pair()
    boot = {
        "rank": rank,
        "world_size": devices.size,
        "kind": devices.kind,
        "index": devices.indices[rank],
        "descriptor": theirs.fileno(),
        "store": f"/proc/self/fd/{store}",
        "collective_timeout": timeouts.collective,
        "threads": max(1, (os.cpu_count() or 1) // devices.size) if devices.kind == "cpu" else 1,
        "pack_name": PACK_NAME,
        "pack_root": str(PACK_ROOT),
        "comfy_root": os.path.dirname(os.path.abspath(folder_paths.__file__)),
        "comfy_args": sys.argv[1:],
        "log_level": log_level,
    }
    log = log_directory() / f"rank{rank}.log"
    with open(log, "wb") as output, theirs:
        process = _spawn(boot, (theirs.fileno(), store), output)
    device = f"cuda:{devices.indices[rank]}" if devices.kind == "cuda" else "cpu"
    return RankProcess(rank, device, process, channel, log)


def _spawn(boot: dict, descriptors: tuple[int, ...], output: IO[bytes]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(BOOTSTRAP), json.dumps(boot)],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=rank_environment(os.environ, boot["threads"]),
        start_new_session=True,
    )


def rank_environment(host: os._Environ | dict[str, str], threads: int) -> dict[str, str]:
    """The host's environment, without the allocator ComfyUI sets for itself, bound to the loopback interface.

    cudaMallocAsync makes sequence-parallel ranks run out of memory.
    """
    environment = dict(host)
    for name in ALLOCATOR_VARIABLES:
        kept = [part for part in environment.pop(name, "").split(",") if part and "cudaMallocAsync" not in part]
        if kept:
            environment[name] = ",".join(kept)
    environment["GLOO_SOCKET_IFNAME"] = LOOPBACK
    environment["NCCL_SOCKET_IFNAME"] = LOOPBACK
    environment.setdefault("NCCL_RAS_ENABLE", "0")  # a listener on a fixed port that nothing here asks
    environment["OMP_NUM_THREADS"] = str(threads)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
