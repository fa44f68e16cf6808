"""What the doctor found, as plain data. `as_dict` is the JSON report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Problem:
    what: str
    do: str


@dataclass(frozen=True)
class Version:
    """`wanted`: a version specifier, None when any will do; `source`: who asks for it; `fits`: None when not judged."""

    name: str
    found: str | None
    wanted: str | None
    source: str
    fits: bool | None


@dataclass(frozen=True)
class Gpu:
    """`index`: ComfyUI's device number; memory in bytes, None where nvidia-smi does not tell."""

    index: int
    name: str
    uuid: str
    capability: str
    memory_total: int
    memory_free: int | None


@dataclass(frozen=True)
class Pair:
    """Two devices. `kind`: as `nvidia-smi topo -m` says; `bandwidth`: bytes per second and direction, both sending;
    `latency`: seconds. What was not found out is None.
    """

    devices: tuple[int, int]
    kind: str | None = None
    peer_access: bool | None = None
    bandwidth: float | None = None
    latency: float | None = None


@dataclass(frozen=True)
class AllToAll:
    """All devices exchanging at once."""

    devices: tuple[int, ...]
    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Kernel:
    """An attention kernel. `works`: None when not tried; `fault`: why it does not; `used`: when the ranks take it."""

    name: str
    works: bool | None
    fault: str | None
    used: str


@dataclass(frozen=True)
class Advice:
    """Whether a way of dividing the work makes sense on this machine, and why."""

    strategy: str
    verdict: str
    why: str


@dataclass
class Report:
    """`devices`: what was examined; `measured`: whether ranks ran; `kept`: the file that keeps the links for auto."""

    devices: str
    problems: list[Problem] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    driver: str | None = None
    gpus: list[Gpu] = field(default_factory=list)
    measured: bool = False
    seconds: float | None = None
    pairs: list[Pair] = field(default_factory=list)
    all_to_all: AllToAll | None = None
    kernels: list[Kernel] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    advice: list[Advice] = field(default_factory=list)
    kept: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}
