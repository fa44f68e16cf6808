"""How a request is divided: what the person asked for, checked against the model, or what `auto` picks and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..config import ConfigError, Degrees, ParallelConfig
from ..sharding.plan import Plan
from .links import Links

SMALL_LATENT = 128 * 128  # positions of a latent up to which whole images are divided rather than their tokens


@dataclass(frozen=True)
class Workload:
    """What a choice depends on. `conditions`: how many each guided call evaluates; `heads`: None without a plan.

    `together`: the patch for which all conditions must be rows of one model call, or None. `compiles`: whether there is
    something to compile or to capture.
    """

    architecture: str
    plan: Plan | None
    heads: int | None
    conditions: int
    latent_shape: tuple[int, ...]
    together: str | None = None
    compiles: bool = False

    @property
    def images(self) -> int:
        """Rows of the latent batch; a latent without any is treated as one."""
        return max(1, self.latent_shape[0]) if self.latent_shape else 1


@dataclass(frozen=True)
class Choice:
    degrees: Degrees
    reason: str

    def __str__(self) -> str:
        return f"{self.degrees} ({self.reason})"


def choose(
    config: ParallelConfig, ranks: int, work: Workload, links: Links | None = None, best: Choice | None = None
) -> Choice:
    """Degrees for `work` on `ranks` ranks. Raises ConfigError when what was asked cannot be had.

    `links`: between GPUs, if measured. `auto` leaves GPUs idle that would only wait for slow ones, unless `unsupported`
    is set to refuse. `best`: what was measured to be the fastest for this work; `auto` takes it where it can be had.
    """
    if config.strategy == "manual":
        choice = _manual(config, ranks, work)
    elif best is not None and refusal(best.degrees, config, ranks, work) is None:
        choice = best
    else:
        choice = _auto(ranks, work, links if config.unsupported != "refuse" else None)
    if config.unsupported == "refuse" and choice.degrees.ranks < ranks:
        raise ConfigError(f"{choice}: {ranks} devices were asked for, and unsupported is set to refuse")
    return choice


def refusal(degrees: Degrees, config: ParallelConfig, ranks: int, work: Workload) -> str | None:
    """Why `degrees` cannot be had for `work` on `ranks` ranks, of which they may leave some idle; None if they can."""
    if degrees.ranks > ranks:
        return f"{degrees} needs {degrees.ranks} devices, there are {ranks}"
    if degrees.ranks < ranks and config.unsupported == "refuse":
        return f"{degrees} leaves {ranks - degrees.ranks} of {ranks} devices idle, and unsupported is set to refuse"
    try:
        _manual(replace(config, strategy="manual", degrees=degrees, unsupported="refuse"), degrees.ranks, work)
    except ConfigError as error:
        return str(error)
    return None


def _auto(ranks: int, work: Workload, links: Links | None) -> Choice:
    if ranks == 1:
        return Choice(Degrees(), "one device")
    cfg = 2 if work.conditions >= 2 and ranks % 2 == 0 and work.together is None else 1
    rest, images = ranks // cfg, work.images
    facts = f"{work.architecture}, {_count(work.conditions, 'condition')}, latent {_size(work.latent_shape)}"
    by_images = Degrees(cfg=cfg, batch=max(part for part in range(1, rest + 1) if rest % part == 0 and part <= images))
    if work.plan is None:
        return Choice(by_images, f"{facts}; no sharding plan for this architecture")
    small = math.prod(work.latent_shape[2:]) <= SMALL_LATENT
    if images % rest == 0 and small:
        return Choice(by_images, facts)
    if links is not None and not links.fast and small:
        slow = f"at {links.bandwidth / 1e9:.0f} GB/s between the GPUs dividing images this small gains nothing"
        return Choice(by_images, f"{facts}; {slow}")
    ulysses = max(part for part in range(1, rest + 1) if rest % part == 0 and part <= work.heads)
    return Choice(Degrees(ulysses=ulysses, ring=rest // ulysses, cfg=cfg), f"{facts}, {work.heads} heads")


def _manual(config: ParallelConfig, ranks: int, work: Workload) -> Choice:
    degrees = config.degrees
    if degrees.ranks != ranks:
        raise ConfigError(
            f"{degrees} needs {degrees.ranks} devices, {ranks} are configured; the degrees must multiply to {ranks}"
        )
    reason, instead = "as configured", ", or use ulysses" if work.plan is not None else ""
    if degrees.sequence > 1 and work.plan is None:
        if config.unsupported == "refuse":
            raise ConfigError(
                f"{degrees}: {work.architecture} has no sharding plan, so only cfg and batch can be more than 1; set"
                " ulysses and ring to 1"
            )
        reason = f"asked for {degrees}; {work.architecture} has no sharding plan"
        degrees = Degrees(cfg=degrees.cfg, batch=degrees.batch)
    if degrees.pipefusion > 1 and (work.plan is None or not work.plan.stages):
        raise ConfigError(
            f"pipefusion {degrees.pipefusion}: the blocks of {work.architecture} cannot be divided into stages; set"
            " pipefusion to 1" + instead
        )
    if config.weights not in ("auto", "replicate"):
        raise ConfigError(f"weights {config.weights!r} cannot be had yet; use replicate")
    if work.heads is not None and degrees.ulysses > work.heads:
        raise ConfigError(
            f"ulysses {degrees.ulysses} is more than the {work.heads} heads of {work.architecture}; possible on"
            f" {degrees.sequence} devices: {_possible(degrees.sequence, work.heads)}"
        )
    if degrees.batch > work.images:
        raise ConfigError(
            f"batch degree {degrees.batch}, but the latent holds {_count(work.images, 'image')}; set batch to"
            f" {work.images} at most{instead}"
        )
    if degrees.cfg > 1 and work.together is not None:
        raise ConfigError(
            f"cfg degree {degrees.cfg}, but the patch {work.together!r} on this MODEL weighs conditions against each"
            " other, so they must run in one model call; set cfg to 1" + instead
        )
    if degrees.cfg > max(1, work.conditions):
        raise ConfigError(
            f"cfg degree {degrees.cfg}, but this sampler evaluates {work.conditions} condition(s) per step; set cfg to"
            f" {max(1, work.conditions)} at most{instead}"
        )
    return Choice(degrees, reason)


def _possible(sequence: int, heads: int) -> str:
    pairs = [(u, sequence // u) for u in range(1, min(sequence, heads) + 1) if sequence % u == 0]
    return ", ".join(f"ulysses {ulysses} × ring {ring}" for ulysses, ring in pairs)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) if math.prod(shape) else "empty"
