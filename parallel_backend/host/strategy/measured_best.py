"""The fastest way of dividing each work, as XDiT Benchmark measured it on this machine; kept for `auto`.

One JSON file in the user's cache directory, beside the links. A measurement counts for exactly the key that it was
taken with; a file that cannot be read is ignored with a warning, and written anew by the next measurement.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...contract.config import Degrees, ParallelConfig
from ...sharding.plan.plan import class_path
from ...system.cache import add_entry, cache_directory, read_entries
from ..base.devices import DeviceSet
from ..base.per_model import once_per_model
from ..launch.rank_launch import PACK_ROOT
from .choose import Choice, Workload
from .link_speed import device_identities, machine

FORMAT = 1
KEPT = 256  # measurements; the oldest go first

Key = dict[str, Any]
"""What a measurement counts for, as JSON values."""


@dataclass(frozen=True)
class Best:
    """`degrees` took `seconds` per step; `day`: when that was measured, as 2026-01-31."""

    degrees: Degrees
    seconds: float
    day: str

    @property
    def choice(self) -> Choice:
        return Choice(self.degrees, f"measured on this machine: {self.seconds * 1e3:.1f} ms a step on {self.day}")


def best_key(patcher: Any, work: Workload, devices: DeviceSet, config: ParallelConfig) -> Key:
    """The key of `work` with the MODEL `patcher` on `devices`. `config.compile` has to be "on" or "off"."""
    return {
        "pack": pack_version(),
        "machine": machine(devices.kind),
        "devices": device_identities(devices),
        "indices": list(devices.indices),
        "architecture": class_path(patcher.model.diffusion_model),
        "weights": _kind_of_weights(patcher.model),
        "latent": list(work.latent_shape),
        "conditions": work.conditions,
        "together": work.together,
        "attention": config.attention,
        "placed": config.weights,
        "compiled": config.compile == "on",
    }


def remembered_best(key: Key) -> Best | None:
    """What was measured last for `key`; None when nothing was."""
    return next((best for known, best in reversed(_measurements()) if known == key), None)


def keep_best(key: Key, degrees: Degrees, seconds: float) -> Path:
    """Remember the fastest degrees for `key`; returns the file. Raises OSError when it cannot be written."""
    day = datetime.now(timezone.utc).date().isoformat()
    entry = {"key": key, "best": asdict(Best(degrees, seconds, day))}
    add_entry(best_file(), FORMAT, entry, KEPT, _entry, lambda known: known[0] == key)
    return best_file()


def best_file() -> Path:
    return cache_directory() / "best.json"


@functools.cache
def pack_version() -> str:
    lines = (PACK_ROOT / "pyproject.toml").read_text().splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version"))


def _kind_of_weights(model: Any) -> str:
    """A digest of the names, shapes and dtypes of the weights, and of how they are computed with."""
    config = model.model_config
    quantized = config.quant_config is not None
    how = (str(model.manual_cast_dtype), sorted(config.optimizations.items()), quantized)
    return hashlib.sha256(repr((how, _layout(model.diffusion_model))).encode()).hexdigest()[:16]


@once_per_model
def _layout(diffusion_model: Any) -> str:
    """A digest of the names, shapes and dtypes of its weights."""
    weights = diffusion_model.state_dict()
    kinds = [(name, tuple(value.shape), str(value.dtype)) for name, value in weights.items()]
    return hashlib.sha256(repr(kinds).encode()).hexdigest()


def _measurements() -> list[tuple[Key, Best]]:
    """Oldest first."""
    path = best_file()
    try:
        status = path.stat()
    except OSError:  # never measured
        return []
    return _read(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1)
def _read(path: Path, mtime_ns: int, size: int) -> list[tuple[Key, Best]]:
    """Read, and warned about, once for each state of the file."""
    try:
        return read_entries(path, FORMAT, _entry)
    except ValueError as error:
        logging.warning("xDiT: %s; until xDiT Benchmark measures again, auto goes by its own rules", error)
        return []


def _entry(content: dict[str, Any]) -> tuple[Key, Best]:
    """Raises ValueError (ConfigError among them), KeyError or TypeError for what is no measurement."""
    best = content["best"]
    return content["key"], Best(Degrees(**best["degrees"]), float(best["seconds"]), str(best["day"]))
