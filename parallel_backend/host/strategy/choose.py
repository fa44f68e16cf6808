"""How a request is divided: what the person asked for, checked against the model, or what `auto` picks and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...contract.config import REPLICATE, ConfigError, Degrees, ParallelConfig
from ...sharding.pipeline.stages import staged_blocks
from ...sharding.plan.plan import Plan, class_path, heads_of
from ...sharding.plans import plan_for, without_plan
from ...sharding.plans.kernels_only import KERNELS_ONLY
from .link_speed import Links

STEPS_FOR_PIPEFUSION = 8  # fewer leave little to gain after its exact first ones
SMALL_LATENT = 128 * 128  # positions of a latent up to which whole images are divided rather than their tokens


@dataclass(frozen=True)
class Workload:
    """What a choice depends on. `conditions`: how many most guided calls evaluate; `most_conditions`: how many one may,
    None for as many. `heads`: None without a plan.

    `together`: what weighs conditions against each other, so that all must be rows of one model call, or None.
    `conditions_undivided`, `rows_undivided`: why cfg or batch groups would each evaluate all of a call, or "".
    `compiles`: whether there is something to compile or to capture. `hook_lora`: whether weights change between model
    calls. `steps`: of the sampler; `blocks`: how many PipeFusion can divide; `undivided_blocks`: why it cannot for this
    request, or "". `ring_of_two`: whether two ranks that share a sequence are faster as a ring. `undivided`: why a
    model call must run on one device, or "". `unplanned`: why there is no plan.
    """

    architecture: str
    plan: Plan | None
    heads: int | None
    conditions: int
    latent_shape: tuple[int, ...]
    together: str | None = None
    conditions_undivided: str = ""
    rows_undivided: str = ""
    compiles: bool = False
    hook_lora: bool = False
    steps: int = 0
    blocks: int = 0
    undivided_blocks: str = ""
    ring_of_two: bool = False
    undivided: str = ""
    most_conditions: int | None = None
    unplanned: str = "has no sharding plan"

    @classmethod
    def of(cls, model: torch.nn.Module, conditions: int, latent_shape: tuple[int, ...], **others: Any) -> Workload:
        """Of a diffusion model, which may be on meta."""
        plan = plan_for(model)
        return cls(
            type(model).__qualname__,
            plan,
            heads_of(plan, model) if plan is not None else None,
            conditions,
            latent_shape,
            compiles=plan is not None or class_path(model) in KERNELS_ONLY,
            blocks=len(staged_blocks(model, plan)) if plan is not None else 0,
            unplanned=without_plan(model) if plan is None else "",
            **others,
        )

    @property
    def cfg_limit(self) -> int:
        """How many ranks can have a condition of their own, if only now and then."""
        return max(1, self.conditions, self.most_conditions or 0)

    @property
    def images(self) -> int:
        """Rows of the latent batch; a latent without any is treated as one."""
        return max(1, self.latent_shape[0]) if self.latent_shape else 1

    def divides(self, degrees: Degrees) -> bool:
        """Whether cfg and batch groups each get a part of a guided call."""
        whole = self.together is not None or self.conditions_undivided
        return not (degrees.cfg > 1 and whole or degrees.batch > 1 and self.rows_undivided)


@dataclass(frozen=True)
class Choice:
    """`weights`: one of config.WEIGHTS, not "auto"; host/strategy/weight_fit.py says which."""

    degrees: Degrees
    reason: str
    weights: str = REPLICATE

    def __str__(self) -> str:
        weights = "" if self.weights == REPLICATE else f", weights: {self.weights}"
        return f"{self.degrees}{weights} ({self.reason})"


def choose(
    config: ParallelConfig, ranks: int, work: Workload, links: Links | None = None, best: Choice | None = None
) -> Choice:
    """Degrees for `work` on `ranks` ranks. Raises ConfigError when what was asked cannot be had.

    `links`: between GPUs, if measured. `auto` leaves GPUs idle that would only wait for slow ones, unless `unsupported`
    is set to refuse. `best`: what was measured to be the fastest for this work; `auto` takes it where it can be had.
    """
    if config.strategy == "manual":
        choice = _manual(config, ranks, work)
    elif best is not None and work.divides(best.degrees) and refusal(best.degrees, config, ranks, work) is None:
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
    if work.undivided:
        return Choice(Degrees(), f"{work.architecture}; {work.undivided}")
    conditions = work.cfg_limit if work.plan is None else work.conditions  # then there is nothing else to divide by
    cfg = 2 if conditions >= 2 and ranks % 2 == 0 and work.divides(Degrees(cfg=2)) else 1
    rest, images = ranks // cfg, work.images if not work.rows_undivided else 1
    facts = f"{work.architecture}, {_count(work.conditions, 'condition')}, latent {_size(work.latent_shape)}"
    by_images = Degrees(cfg=cfg, batch=max(part for part in range(1, rest + 1) if rest % part == 0 and part <= images))
    if work.plan is None:
        return Choice(by_images, f"{facts}; no sharding plan that matches this architecture")
    small = math.prod(work.latent_shape[2:]) <= SMALL_LATENT
    if images % rest == 0 and small:
        return Choice(by_images, facts)
    if links is None or links.fast or rest == 1:
        return Choice(_sequence(rest, work, cfg), f"{facts}, {work.heads} heads")
    speed = f"at {links.bandwidth / 1e9:.0f} GB/s between the GPUs"
    instead = _pipeline_instead(rest, cfg, work)
    if small:
        return Choice(by_images, f"{facts}; {speed} dividing images this small gains nothing{instead}")
    return Choice(_sequence(rest, work, cfg), f"{facts}, {work.heads} heads; {speed} that gains little{instead}")


def _pipeline_instead(rest: int, cfg: int, work: Workload) -> str:
    """What the person may set for slow links. `auto` does not take it by itself: it approximates."""
    if not 1 < rest <= work.blocks or work.undivided_blocks or work.steps < STEPS_FOR_PIPEFUSION:
        return ""
    return f". Faster, but approximate: strategy manual, {Degrees(cfg=cfg, pipefusion=rest)}"


def by_tokens(ranks: int, work: Workload) -> Choice | None:
    """Every rank on a share of the tokens; None where that cannot be."""
    if ranks == 1 or work.plan is None or work.undivided:
        return None
    return Choice(_sequence(ranks, work, cfg=1), "tokens")


def _sequence(ranks: int, work: Workload, cfg: int) -> Degrees:
    """As much Ulysses as there are heads for, the rest ring."""
    if ranks == 2 and work.ring_of_two:
        return Degrees(ring=2, cfg=cfg)
    assert work.heads is not None, "without a plan no sequence is divided"
    ulysses = max(part for part in range(1, ranks + 1) if ranks % part == 0 and part <= work.heads)
    return Degrees(ulysses=ulysses, ring=ranks // ulysses, cfg=cfg)


def _manual(config: ParallelConfig, ranks: int, work: Workload) -> Choice:
    degrees = config.degrees
    if degrees.ranks != ranks:
        raise ConfigError(
            f"{degrees} needs {degrees.ranks} devices, {ranks} are configured; the degrees must multiply to {ranks}"
        )
    if work.undivided and degrees.ranks > 1:
        if config.unsupported == "refuse":
            raise ConfigError(f"{degrees}: {work.undivided}; set all degrees to 1, or leave that node out")
        return Choice(Degrees(), f"asked for {degrees}; {work.undivided}")
    reason, instead = "as configured", ", or use ulysses" if work.plan is not None else ""
    if degrees.sequence > 1 and work.plan is None:
        if config.unsupported == "refuse":
            raise ConfigError(
                f"{degrees}: {work.architecture} {work.unplanned}, so only cfg and batch can be more than 1; set"
                " ulysses and ring to 1"
            )
        reason = f"asked for {degrees}; {work.architecture} {work.unplanned}"
        degrees = Degrees(cfg=degrees.cfg, batch=degrees.batch)
    _check_stages(degrees.pipefusion, work, instead)
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
            f"cfg degree {degrees.cfg}, but {work.together}, so they must run in one model call; set cfg to 1{instead}"
        )
    if degrees.cfg > work.cfg_limit:
        raise ConfigError(
            f"cfg degree {degrees.cfg}, but this sampler evaluates {max(work.conditions, work.most_conditions or 0)}"
            f" condition(s) per step; set cfg to {work.cfg_limit} at most{instead}"
        )
    return Choice(degrees, reason)


def _check_stages(stages: int, work: Workload, instead: str) -> None:
    """Raises ConfigError when PipeFusion cannot have so many stages."""
    if stages == 1:
        return
    if work.blocks == 0:
        raise ConfigError(
            f"pipefusion {stages}: the blocks of {work.architecture} cannot be divided into stages; set pipefusion to 1"
            + instead
        )
    if stages > work.blocks:
        raise ConfigError(
            f"pipefusion {stages} needs {stages} blocks, {work.architecture} has {work.blocks}; set pipefusion to"
            f" {work.blocks} at most{instead}"
        )
    if work.undivided_blocks:
        raise ConfigError(f"pipefusion {stages}: {work.undivided_blocks}; set pipefusion to 1{instead}")


def _possible(sequence: int, heads: int) -> str:
    pairs = [(u, sequence // u) for u in range(1, min(sequence, heads) + 1) if sequence % u == 0]
    return ", ".join(f"ulysses {ulysses} × ring {ring}" for ulysses, ring in pairs)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) if math.prod(shape) else "empty"
