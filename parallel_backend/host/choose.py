"""How a request is divided: what the person asked for, checked against the model, or what `auto` picks and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import ConfigError, Degrees, ParallelConfig
from ..sharding.plan import Plan


@dataclass(frozen=True)
class Workload:
    """What a choice depends on. `conditions`: how many each guided call evaluates; `heads`: None without a plan."""

    architecture: str
    plan: Plan | None
    heads: int | None
    conditions: int
    latent_shape: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    degrees: Degrees
    reason: str

    def __str__(self) -> str:
        return f"{self.degrees} ({self.reason})"


def choose(config: ParallelConfig, ranks: int, work: Workload) -> Choice:
    """Degrees for `work` on `ranks` ranks. Raises ConfigError when what was asked cannot be had."""
    choice = _manual(config, ranks, work) if config.strategy == "manual" else _auto(ranks, work)
    if config.unsupported == "refuse" and choice.degrees.ranks < ranks:
        raise ConfigError(f"{choice}: {ranks} devices were asked for, and unsupported is set to refuse")
    return choice


def _auto(ranks: int, work: Workload) -> Choice:
    if ranks == 1:
        return Choice(Degrees(), "one device")
    cfg = 2 if work.conditions >= 2 and ranks % 2 == 0 else 1
    conditions = f"{work.conditions} condition{'s' if work.conditions > 1 else ''}"
    if work.plan is None:
        if cfg == 2:
            return Choice(Degrees(cfg=2), f"{work.architecture} has no sharding plan; {conditions} on two devices")
        return Choice(Degrees(), f"{work.architecture} has no sharding plan and {conditions}")
    sequence = ranks // cfg
    ulysses = max(part for part in range(1, sequence + 1) if sequence % part == 0 and part <= work.heads)
    degrees = Degrees(ulysses=ulysses, ring=sequence // ulysses, cfg=cfg)
    return Choice(degrees, f"{work.architecture}, {work.heads} heads, {conditions}, latent {_size(work.latent_shape)}")


def _manual(config: ParallelConfig, ranks: int, work: Workload) -> Choice:
    degrees = config.degrees
    if degrees.ranks != ranks:
        raise ConfigError(
            f"{degrees} needs {degrees.ranks} devices, {ranks} are configured; the degrees must multiply to {ranks}"
        )
    if degrees.sequence > 1 and work.plan is None:
        if config.unsupported == "refuse":
            raise ConfigError(
                f"{degrees}: {work.architecture} has no sharding plan, so only cfg can be more than 1; set ulysses and"
                " ring to 1"
            )
        kept = Degrees(cfg=degrees.cfg)
        return Choice(kept, f"asked for {degrees}; {work.architecture} has no sharding plan")
    if work.heads is not None and degrees.ulysses > work.heads:
        raise ConfigError(
            f"ulysses {degrees.ulysses} is more than the {work.heads} heads of {work.architecture}; possible on"
            f" {degrees.sequence} devices: {_possible(degrees.sequence, work.heads)}"
        )
    if degrees.cfg > max(1, work.conditions):
        raise ConfigError(
            f"cfg degree {degrees.cfg}, but this sampler evaluates {work.conditions} condition(s) per step; set cfg to"
            f" {work.conditions} at most, or use ulysses"
        )
    return Choice(degrees, "as configured")


def _possible(sequence: int, heads: int) -> str:
    pairs = [(u, sequence // u) for u in range(1, min(sequence, heads) + 1) if sequence % u == 0]
    return ", ".join(f"ulysses {ulysses} × ring {ring}" for ulysses, ring in pairs)


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) if math.prod(shape) else "empty"
