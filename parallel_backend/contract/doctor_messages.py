"""What the doctor asks of the ranks, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """Measure the links between the ranks and try the attention kernels. Each rank answers `Probed` or `Failed`."""

    request: int


@dataclass(frozen=True)
class Exchanged:
    """An all-to-all among `ranks`: bytes per second that this rank sent (it received as many), seconds of a small one,
    and whether every byte arrived as it was sent.
    """

    ranks: tuple[int, ...]
    bandwidth: float
    latency: float
    intact: bool


@dataclass(frozen=True)
class KernelTrial:
    """An attention kernel on this rank's device; `fault` says why it cannot be used, None when it can."""

    name: str
    fault: str | None


@dataclass(frozen=True)
class Probed:
    """`exchanges`: those that this rank took part in, pairs first, then all ranks where there are more than two."""

    request: int
    rank: int
    exchanges: tuple[Exchanged, ...]
    kernels: tuple[KernelTrial, ...]
