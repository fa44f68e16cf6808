"""How fast the devices are linked, as the doctor measured it; kept for `auto`, which has no time to measure.

One JSON file in the user's cache directory. A measurement counts for the same devices, driver, torch and settings of
NCCL.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ...system.cache import add_entry, cache_directory, read_entries
from ..base import nvidia_smi
from ..base.devices import DeviceSet

FORMAT = 1
KEPT = 32  # measurements of other devices, drivers and versions of torch; the oldest go first
FAST_LINK = 60e9  # bytes per second and direction, all devices exchanging at once
NOT_OF_LINKS = ("NCCL_DEBUG", "NCCL_VERSION")
ENTRY = ("machine", "devices", "measured", "pairs", "together")


@dataclass(frozen=True)
class Link:
    """`bandwidth`: bytes per second that one device sends while it receives as many; `latency`: seconds."""

    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Links:
    """`pairs`: by the two device indices, smaller first; `together`: all devices at once, None when not measured."""

    pairs: dict[tuple[int, int], Link]
    together: Link | None

    @property
    def bandwidth(self) -> float:
        """Bytes per second and direction that an all-to-all can count on."""
        return self.together.bandwidth if self.together else min(link.bandwidth for link in self.pairs.values())

    @property
    def fast(self) -> bool:
        return self.bandwidth >= FAST_LINK


def measured_links(devices: DeviceSet) -> Links | None:
    """What was measured last over `devices`, or over more devices that include them; None when never."""
    mine = machine(devices.kind)
    wanted = device_identities(devices)
    for entry in reversed(_read()):
        if entry["machine"] != mine:
            continue
        if len(wanted) < 2 or any(identity not in entry["devices"] for identity in wanted):
            continue
        place = {
            entry["devices"].index(identity): index for identity, index in zip(wanted, devices.indices, strict=True)
        }
        pairs = {
            pair_of(place[a], place[b]): Link(*link) for a, b, *link in entry["pairs"] if a in place and b in place
        }
        together: Link | None
        if len(entry["devices"]) == len(wanted):
            together = Link(*entry["together"])
        elif len(pairs) < math.comb(len(wanted), 2):
            continue
        else:
            together = next(iter(pairs.values())) if len(wanted) == 2 else None
        return Links(pairs, together)
    return None


def keep_links(devices: DeviceSet, links: Links) -> Path:
    """Write a measurement over all of `devices`, all at once included; returns the file.

    Raises OSError when it cannot be written, ValueError when the devices were not measured all at once.
    """
    if links.together is None:
        raise ValueError(f"{devices}: only a measurement of all devices at once is kept")
    place = {index: position for position, index in enumerate(devices.indices)}
    entry = {
        "machine": machine(devices.kind),
        "devices": device_identities(devices),
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "pairs": [[*pair_of(place[a], place[b]), link.bandwidth, link.latency] for (a, b), link in links.pairs.items()],
        "together": [links.together.bandwidth, links.together.latency],
    }
    path = links_file()
    same = lambda old: (old["machine"], old["devices"]) == (entry["machine"], entry["devices"])  # noqa: E731
    add_entry(path, FORMAT, entry, KEPT, _entry, same)
    return path


def pair_of(a: int, b: int) -> tuple[int, int]:
    """Two devices, the smaller number first."""
    return (a, b) if a < b else (b, a)


def links_file() -> Path:
    return cache_directory() / "links.json"


def _read() -> list[dict[str, Any]]:
    """Oldest first. A damaged file is as good as none."""
    try:
        return read_entries(links_file(), FORMAT, _entry)
    except ValueError as error:
        logging.info("xDiT: %s", error)
        return []


def _entry(content: Any) -> dict[str, Any]:
    """A measurement as keep_links writes it. Raises ValueError, KeyError or TypeError for anything else."""
    entry = {name: content[name] for name in ENTRY}
    names = entry["devices"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"devices are {names!r}")
    for a, b, *link in entry["pairs"]:
        if not (type(a) is type(b) is int and 0 <= a < b < len(names)):
            raise ValueError(f"a link between devices {a!r} and {b!r} of {len(names)}")
        _check_link(*link)
    _check_link(*entry["together"])
    return entry


def _check_link(bandwidth: float, latency: float) -> None:
    for value in (bandwidth, latency):
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ValueError(f"a link of {bandwidth!r} bytes per second and {latency!r} seconds")


def device_identities(devices: DeviceSet) -> list[str]:
    """Names that tell these very devices from any others, in rank order."""
    if devices.kind == "cpu":
        return [f"{platform.node()} cpu {index} of {devices.size}" for index in devices.indices]
    return [_gpu_identity(index) for index in devices.indices]


def _gpu_identity(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name} {properties.uuid}"


def machine(kind: str) -> dict[str, Any]:
    """What changes the speed of devices and links while they stay the same: torch, driver, NCCL's settings."""
    if kind == "cpu":
        return {"kind": kind, "torch": torch.__version__}
    settings = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("NCCL_") and not name.startswith(NOT_OF_LINKS)
    }
    return {"kind": kind, "torch": torch.__version__, "driver": _driver(), "nccl": settings}


@functools.cache
def _driver() -> str:
    try:
        rows = nvidia_smi.gpus()
    except nvidia_smi.NvidiaSmiError:
        rows = []
    return rows[0].driver if rows else "unknown"
