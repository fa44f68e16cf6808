"""What can be seen of a server's ranks from outside: their processes, memory, sockets and logs."""

import ipaddress
import socket
import struct
from pathlib import Path

from comfy_host.instance import ComfyInstance

from .comfy_client import ComfyClient
from .waiting import answered_status, wait_until

BOOTSTRAP = "parallel_backend/rank/process/bootstrap.py"
LISTENING = "0A"


def rank_pids(comfy: ComfyInstance) -> set[int]:
    """The process ids of the ranks that this server runs."""
    return {pid for pid, command in comfy.processes().items() if BOOTSTRAP in command}


def log_lines(comfy: ComfyInstance, rank: int) -> list[str]:
    """What this rank logged since it was started."""
    return (comfy.base / "user" / "xdit" / f"rank{rank}.log").read_text(errors="replace").splitlines()


def weight_reads(comfy: ComfyInstance, rank: int = 0) -> list[str]:
    """The files whose weights this rank read since it was started, in order."""
    marker = "reading the weights of "
    return [line.partition(marker)[2].strip() for line in log_lines(comfy, rank) if marker in line]


def held(client: ComfyClient) -> list[dict[str, int]]:
    """Of each rank: title → bytes of the models on its device."""
    return [{model["title"]: model["bytes"] for model in rank["models"]} for rank in answered_status(client)["ranks"]]


def unload(client: ComfyClient) -> None:
    """Press "Unload models" if a rank holds any, and wait until none does."""
    if any(held(client)):  # else ComfyUI might do it after the next prompt only
        client.post("/free", {"unload_models": True})
        wait_until(lambda: not any(held(client)))


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that no file backs."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Anonymous")


def resident_bytes(pid: int) -> int:
    """All memory of a process that is in RAM, pages of files included."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmRSS")


def file_bytes(pid: int, file: Path) -> tuple[int, int]:
    """Of a file's pages in RAM that a process maps: all of them, and its share where others map them too (Rss, Pss)."""
    rss = pss = 0
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head, _, rest = line.partition(" ")
        if not head.endswith(":"):
            inside = line.endswith(f" {file}")
        elif inside and head in ("Rss:", "Pss:"):
            size = int(rest.split()[0]) * 1024
            rss, pss = (rss + size, pss) if head == "Rss:" else (rss, pss + size)
    return rss, pss


def mapped_bytes(pid: int, file: Path) -> int:
    """How much of a file a process has read through its mappings of it."""
    found, ours = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if not line.split(maxsplit=1)[0].endswith(":"):
            ours = line.endswith(str(file))
        elif ours and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def _kilobytes(path: Path, name: str) -> int:
    (line,) = (line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def listeners(pid: int) -> list[tuple[str, int]]:
    """(address, port) of every TCP socket on which a process listens."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    found = []
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENING and rest[5] in inodes:
                address, port = local.split(":")
                words = (struct.pack("=I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8))
                found.append((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
