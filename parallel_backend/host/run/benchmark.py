"""Samples the same latent with every way of dividing it, by the road that sampling always takes, and remembers the
fastest for `auto`.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import comfy.model_management
import torch

from ...contract.config import ConfigError, Degrees, ParallelConfig
from ..base.devices import DeviceSet, resolve
from ..base.errors import GroupError, OutOfMemory, RequestRefused
from ..describe.changes import Changes
from ..group.manager import GroupManager
from ..group.release import forget_degrees
from ..model.seam import Seam
from ..strategy.choose import Workload, choose, refusal
from ..strategy.link_speed import measured_links
from ..strategy.measured_best import Key, best_key, keep_best
from ..strategy.when_to_compile import compile_wanted
from .runner import Runner
from .workload import workload

MOST_AXES = 2  # divided at once; more than two of them rarely pay, and would take long to try
NOTICEABLE = 0.02  # part of a step by which another way must be faster than auto's own rule to take its place
FAILURES = (ConfigError, RequestRefused, OutOfMemory, GroupError)


@dataclass(frozen=True)
class Trial:
    """One way of dividing the work: `seconds` per step (median), endless where there is none because of `fault`."""

    degrees: Degrees
    seconds: float = math.inf
    fault: str = ""

    @property
    def exact(self) -> bool:
        """Whether it computes what one device does; only then may `auto` take it."""
        return self.degrees.pipefusion == 1


@dataclass(frozen=True)
class Measured:
    """What a benchmark found. `best` is remembered for `auto`; None when nothing could be measured."""

    work: Workload
    devices: DeviceSet
    config: ParallelConfig
    trials: tuple[Trial, ...]
    rule: Degrees
    best: Trial | None


def strategies(ranks: int) -> list[Degrees]:
    """All degrees with at most MOST_AXES of them above 1 that use `ranks` devices or a divisor of them, most first."""
    found = [degrees for number in range(ranks, 0, -1) if ranks % number == 0 for degrees in _products(number)]
    return [degrees for degrees in found if len(_divided(degrees)) <= MOST_AXES]


def _products(number: int) -> list[Degrees]:
    """Every way to write `number` as a product of degrees, single ones first."""
    axes = [axis.name for axis in fields(Degrees)]

    def divide(rest: int, names: list[str]) -> list[dict[str, int]]:
        if not names:
            return [{}] if rest == 1 else []
        parts = [part for part in range(rest, 0, -1) if rest % part == 0]
        return [{names[0]: part, **others} for part in parts for others in divide(rest // part, names[1:])]

    return sorted((Degrees(**degrees) for degrees in divide(number, axes)), key=lambda found: len(_divided(found)))


def _divided(degrees: Degrees) -> list[str]:
    return [axis.name for axis in fields(degrees) if getattr(degrees, axis.name) > 1]


def fastest(trials: list[Trial], rule: Degrees) -> Trial | None:
    """The fastest exact trial; the one of auto's own rule, where no other is noticeably faster."""
    timed = [trial for trial in trials if not trial.fault and trial.exact]
    if not timed:
        return None
    first = min(timed, key=lambda trial: trial.seconds)
    own = next((trial for trial in timed if trial.degrees == rule), first)
    return own if own.seconds * (1 - NOTICEABLE) <= first.seconds else first


class BenchmarkSeam(Seam):
    """In place of a MODEL's seam: samples what arrives there once for each strategy.

    `progress(done, total)` hears of every step of all strategies together.
    """

    def __init__(self, runner: Runner, progress: Callable[[int, int], None]):
        super().__init__(self._benchmark)
        self._measured: Measured | None = None
        self._runner = runner
        self._progress = progress

    @property
    def measured(self) -> Measured:
        """What was found. Raises ConfigError where the sampler ended without calling the seam."""
        if self._measured is None:
            raise ConfigError(
                "xDiT Benchmark measured nothing: the sampler ended before its first step. Either this scheduler makes"
                " no steps of these settings, so choose another one or more steps, or another node's wrapper of the"
                " MODEL samples in place of the ranks, so leave that node out"
            )
        return self._measured

    def _benchmark(self, executor, arguments, callback, disable_pbar) -> torch.Tensor:
        """The latent to denoise as it came: the samples of a benchmark are of no use.

        Raises InterruptProcessingException when cancelled; ConfigError for devices or degrees that cannot be had.
        """
        guider = executor.class_obj
        patcher = guider.model_patcher
        own = patcher.parallel_config
        asked = own or ParallelConfig()
        devices = resolve(asked.devices)
        work = workload(guider, arguments, devices, Changes.met_by_guider(guider))
        config = replace(asked, strategy="auto", compile=self._compile(asked, devices.kind, work))
        manager = self._runner.manager
        with manager.used():
            group = manager.group(devices, config.may_leave_out)
            patcher.parallel_config = config
            try:
                measured = self._measured = self._measure(executor, arguments, work, group.devices, config)
            finally:
                patcher.parallel_config = own
                _give_back(manager)
            key = best_key(patcher, work, group.devices, config)
            _keep(key, measured.best, manager.group(devices, config.may_leave_out).devices == group.devices)
        return arguments["latent_image"]

    def _compile(self, config: ParallelConfig, kind: str, work: Workload) -> str:
        """Who measures goes on with the model: `auto` compiles on GPUs, and will from then on."""
        if config.compile == "auto" and kind == "cuda" and work.compiles:
            return "on"
        return "on" if compile_wanted(config, kind, work, self._runner.sampled) else "off"

    def _measure(
        self, executor, arguments: dict[str, Any], work: Workload, devices: DeviceSet, config: ParallelConfig
    ) -> Measured:
        links = measured_links(devices) if devices.kind == "cuda" else None
        rule = choose(replace(config, unsupported="run on one device"), devices.size, work, links).degrees
        possible, refused = _sorted_out(devices.size, work, config, rule)
        passes = 2 if config.compile == "on" else 1  # what is compiled and captured first is not timed
        steps = len(arguments["sigmas"]) - 1
        self._total, self._done = len(possible) * passes * steps, 0
        trials = []
        for degrees in possible:
            comfy.model_management.throw_exception_if_processing_interrupted()
            try:
                for _ in range(passes):
                    seconds = self._time(executor, arguments, degrees, _warm_up(degrees, config))
                trial = Trial(degrees, seconds)
            except FAILURES as error:
                trial = Trial(degrees, fault=str(error).splitlines()[0])
                logging.warning("xDiT Benchmark: %s: %s", degrees, error)
            else:
                logging.info("xDiT Benchmark: %s: %.1f ms a step", degrees, seconds * 1e3)
            trials.append(trial)
            self._done = len(trials) * passes * steps
        return Measured(work, devices, config, (*trials, *refused), rule, fastest(trials, rule))

    def _time(self, executor, arguments: dict[str, Any], degrees: Degrees, warm_up: int) -> float:
        """Seconds per step: the median of the times between the ends of steps, from that of step `warm_up` on."""
        ends: list[float] = []
        before = self._done

        def on_step(step: int, x0: Any, x: Any, total: int) -> None:
            ends.append(time.perf_counter())
            self._done = before + step + 1
            self._progress(self._done, self._total)

        self._runner.run(executor, arguments, on_step, True, degrees=degrees)
        times = [after - start for start, after in zip(ends, ends[1:], strict=False)][warm_up - 1 :]
        if not times:
            raise ConfigError(f"{len(ends)} step(s) were sampled, of which {warm_up} are not timed; set more steps")
        return statistics.median(times)


def _give_back(manager: GroupManager) -> None:
    """What each of the ways made for itself in the ranks. Those that still end a cancelled run do so later."""
    group = manager.start.group if manager.start is not None else None
    if group is None or not group.alive() or (group.leftover is not None and not group.leftover.done.is_set()):
        return
    try:
        forget_degrees(group)
    except FAILURES as error:
        logging.warning("xDiT Benchmark: what it took in the ranks was not freed: %s", error)


def _warm_up(degrees: Degrees, config: ParallelConfig) -> int:
    """First steps that are not timed; PipeFusion computes its own first ones in another way than the rest."""
    return 1 if degrees.pipefusion == 1 else max(1, config.warmup_steps) + 1


def _sorted_out(ranks: int, work: Workload, config: ParallelConfig, rule: Degrees) -> tuple[list[Degrees], list[Trial]]:
    """What can be tried, auto's own rule first; and what of a single degree cannot, with its reason."""
    reasons = {degrees: refusal(degrees, config, ranks, work) for degrees in (rule, *strategies(ranks))}
    refused = [
        Trial(degrees, fault=reason)
        for degrees, reason in reasons.items()
        if reason is not None and len(_divided(degrees)) == 1 and degrees.ranks == ranks
    ]
    return [degrees for degrees, reason in reasons.items() if reason is None], refused


def _keep(key: Key, best: Trial | None, same_devices: bool) -> None:
    if best is None:
        return
    if not same_devices:
        logging.warning("xDiT Benchmark: a device was lost during the measurement, so nothing is remembered")
        return
    try:
        keep_best(key, best.degrees, best.seconds)
    except OSError as error:
        logging.warning("xDiT Benchmark: the best cannot be remembered: %s", error)
