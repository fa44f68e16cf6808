"""Starting one rank: its environment, its arguments, its log, its private channel."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...comfyui import folders
from ...transport.channel import Channel
from ...transport.outbox import Outbox
from ..base.devices import DeviceSet
from ..base.limits import Limits
from . import surviving_ranks
from .rank_environment import rank_environment
from .rank_log import RankLog
from .rank_python import python_flags

PACK_ROOT = Path(__file__).resolve().parents[3]
PACK_NAME = __name__.removesuffix(".parallel_backend.host.launch.rank_launch")
BOOTSTRAP = PACK_ROOT / "parallel_backend" / "rank" / "process" / "bootstrap.py"


@dataclass
class RankProcess:
    rank: int
    device: str
    process: subprocess.Popen
    channel: Channel
    outbox: Outbox
    log: RankLog

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.device})"

    def stopped(self) -> bool:
        """Whether somebody stopped the process (SIGSTOP, a debugger)."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat.rpartition(")")[2].split()[0] in "Tt"


class Launcher:
    """Starts processes from one thread that lives as long as ComfyUI.

    A rank asks the kernel to end it with its parent (PR_SET_PDEATHSIG), and to the kernel that is the thread.
    """

    def __init__(self):
        self._calls: queue.SimpleQueue[tuple[Future, Callable[[], subprocess.Popen]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, call: Callable[[], subprocess.Popen]) -> subprocess.Popen:
        """What `call` gives or raises, run in that thread."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="xdit-launcher", daemon=True)
                self._thread.start()
        future: Future[subprocess.Popen] = Future()
        self._calls.put((future, call))
        return future.result()

    def _run(self) -> None:
        while True:
            future, call = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)


def start_rank(
    rank: int,
    devices: DeviceSet,
    store: int,
    limits: Limits,
    log_level: int,
    failed: Callable[[BaseException], None],
    launcher: Launcher,
) -> RankProcess:
    """Start the process of `rank`; it answers with Ready over its channel. Raises OSError.

    `store` is the descriptor of the file through which the ranks find each other; `failed` is called when nothing can
    be sent to this one any more.
    """
    channel, theirs = Channel.pair()
    boot = {
        "rank": rank,
        "world_size": devices.size,
        "kind": devices.kind,
        "index": devices.indices[rank],
        "descriptor": theirs.fileno(),
        "host_pid": os.getpid(),
        "store": f"/proc/self/fd/{store}",
        "collective_timeout": limits.collective,
        "threads": max(1, (os.cpu_count() or 1) // devices.size) if devices.kind == "cpu" else 1,
        "pack_name": PACK_NAME,
        "pack_root": str(PACK_ROOT),
        "comfy_root": os.path.dirname(os.path.abspath(folder_paths.__file__)),
        "comfy_args": sys.argv[1:],
        "folders": folders.described(),
        "log_level": log_level,
    }
    output, theirs_output = os.pipe()
    try:
        with theirs:
            process = launcher.start(lambda: _spawn(boot, (theirs.fileno(), store), theirs_output))
            surviving_ranks.started(process.pid)
    except BaseException:
        os.close(output)
        channel.close()
        raise
    finally:
        os.close(theirs_output)
    device = f"cuda:{devices.indices[rank]}" if devices.kind == "cuda" else "cpu"
    return RankProcess(rank, device, process, channel, Outbox(channel, str(rank), failed), RankLog(output, rank))


def _spawn(boot: dict, descriptors: tuple[int, ...], output: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *python_flags(), str(BOOTSTRAP), json.dumps(boot)],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=rank_environment(os.environ, boot["threads"]),
        start_new_session=True,
    )
