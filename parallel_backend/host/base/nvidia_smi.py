"""What nvidia-smi says: the GPUs, their memory, the driver, and how they are connected."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

TIMEOUT_SECONDS = 20
FIELDS = ("index", "uuid", "name", "driver_version", "memory.total", "memory.used", "memory.free")
MIB = 1024 * 1024

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_GPU = re.compile(r"GPU(\d+)")


class NvidiaSmiError(RuntimeError):
    """nvidia-smi is not there or failed; the message says which."""


@dataclass(frozen=True)
class GpuRow:
    """One GPU; memory in bytes. `index` is nvidia-smi's own, in PCI bus order."""

    index: int
    uuid: str
    name: str
    driver: str
    memory_total: int | None
    memory_used: int | None
    memory_free: int | None


def gpus() -> list[GpuRow]:
    """Every GPU of the machine. Raises NvidiaSmiError."""
    text = _run("--query-gpu=" + ",".join(FIELDS), "--format=csv,noheader,nounits")
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    if any(len(row) != len(FIELDS) or not row[0].isdigit() for row in rows):
        raise NvidiaSmiError(f"nvidia-smi gave something other than a list of GPUs: {text.strip()[:200]}")
    return [GpuRow(int(row[0]), row[1], row[2], row[3], *map(_mib, row[4:])) for row in rows]


def topology() -> dict[tuple[int, int], str]:
    """How each pair of GPUs (nvidia-smi's numbers, smaller first) is connected: NV18, PIX, PXB, PHB, NODE or SYS.

    Raises NvidiaSmiError.
    """
    return parse_topology(_run("topo", "-m"))


def parse_topology(text: str) -> dict[tuple[int, int], str]:
    """The matrix of `nvidia-smi topo -m`: columns by tabs, first row the names, network cards among them."""
    lines = [_ANSI.sub("", line) for line in text.splitlines()]
    columns: list[str] = []
    found = {}
    for line in lines:
        cells = [cell.strip() for cell in line.split("\t")]
        if not columns:
            if "GPU0" in cells and "X" not in cells:
                columns = cells[cells.index("GPU0") :]
            continue
        row = _GPU.fullmatch(cells[0])
        if row is None:
            continue
        for name, cell in zip(columns, cells[1:], strict=False):
            column = _GPU.fullmatch(name)
            if column is not None and int(row[1]) < int(column[1]):
                found[int(row[1]), int(column[1])] = cell
    return found


def _run(*arguments: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise NvidiaSmiError("nvidia-smi is not on PATH")
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise NvidiaSmiError(f"nvidia-smi {arguments[0]} did not end within {TIMEOUT_SECONDS} s") from None
    except OSError as error:
        raise NvidiaSmiError(f"nvidia-smi cannot be run: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).replace("\n", " ")
        raise NvidiaSmiError(f"nvidia-smi {arguments[0]} ended with code {done.returncode}: {said[:200]}")
    return done.stdout


def _mib(text: str) -> int | None:
    """MiB as bytes; None where nvidia-smi has no figure ("[N/A]", for instance on unified memory)."""
    return int(float(text)) * MIB if text.replace(".", "", 1).isdigit() else None
