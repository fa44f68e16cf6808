"""One running ComfyUI with a base directory of its own: everything it writes stays in there."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import PACK_ROOT, Host

PACK_NAME = "xdit-comfyui"
MODEL_FOLDERS = ("checkpoints", "controlnet", "diffusers", "diffusion_models", "loras", "text_encoders", "vae")
MARK = "XDIT_HOST_INSTANCE"  # in the environment of an instance and of every process that it starts
PR_SET_PDEATHSIG = 1
PORTS = range(20000, 30000)
libc = ctypes.CDLL(None)


class InstanceError(RuntimeError):
    """ComfyUI did not start, or left processes behind."""


def make_base_directory(base: Path, packs: Mapping[str, Path]) -> Path:
    """Make ComfyUI's folders under `base`, with each pack (name → folder) linked into custom_nodes."""
    for folder in ("custom_nodes", "input", "output", "temp", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for folder in MODEL_FOLDERS:
        (base / "models" / folder).mkdir(parents=True, exist_ok=True)
    for name, source in {PACK_NAME: PACK_ROOT, **packs}.items():
        link = base / "custom_nodes" / name
        if not link.is_symlink():
            link.symlink_to(source, target_is_directory=True)
    return base


class ComfyInstance:
    """A headless ComfyUI on 127.0.0.1. A context manager: on exit nothing of it is left running.

    `base` is a directory from make_base_directory, `flags` are further ComfyUI flags (`--cpu` included), `environment`
    is added to this process's own, `python_flags` are the interpreter's. Its output goes to comfyui.log in `base`.
    """

    def __init__(
        self,
        host: Host,
        base: Path,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        python_flags: Sequence[str] = (),
    ):
        self.base = base
        self.port = free_port()
        self.log = base / "comfyui.log"
        self._mark = uuid.uuid4().hex
        self._command = [
            *(str(host.python), *python_flags, str(host.tree / "main.py")),
            *("--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(base)),
            *("--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}"),
            *("--disable-auto-launch", "--disable-api-nodes", *flags),
        ]
        # No byte code either is written into ComfyUI's tree.
        self._environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(environment or {}), MARK: self._mark}
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, timeout: float = 180) -> None:
        """Start and wait until the HTTP API answers; raises InstanceError after `timeout` seconds or if it ends."""
        with open(self.log, "w") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.base,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self._process.poll() is not None:
                self._fail(f"ComfyUI ended with code {self._process.returncode} while starting")
            if time.monotonic() > deadline:
                self._fail(f"ComfyUI did not answer within {timeout:.0f} s")
            time.sleep(0.2)

    def stop(self, grace: float = 20) -> list[str]:
        """End ComfyUI and everything that it started.

        Gives the command lines of processes that had to be killed because they outlived ComfyUI by `grace` seconds.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)
                try:
                    self._process.wait(grace)
                except subprocess.TimeoutExpired:
                    continue
        left = self._wait_until_gone(grace)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self._wait_until_gone(grace)
        return list(left.values())

    def processes(self) -> dict[int, str]:
        """Every living process of this instance, also one in a session of its own: pid → command line."""
        found = {}
        wanted = f"{MARK}={self._mark}".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # gone meanwhile, or another user's
        return found

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def log_since(self, start: int) -> str:
        """What ComfyUI's console shows since its log was `start` bytes long."""
        with open(self.log, errors="replace") as log:
            log.seek(start)
            return log.read()

    def __enter__(self) -> "ComfyInstance":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        if left := self.stop():
            raise InstanceError(f"ComfyUI left {len(left)} processes behind: {left}")

    def _wait_until_gone(self, seconds: float) -> dict[int, str]:
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def _fail(self, what: str) -> None:
        self.stop(grace=5)
        raise InstanceError(f"{what}. The end of {self.log}:\n{self.log_tail()}")


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to connections: until ComfyUI listens, some
    seconds later, one of those may be gone.
    """
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise InstanceError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")


def _end_with_parent() -> None:
    """In the child: end when this process dies, and obey SIGINT even if this process runs in the background."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
