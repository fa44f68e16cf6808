"""Weights that a loader asks for before a sampler does: read in the background, while no prompt uses the ranks."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import comfy.model_management

from ...contract.commands import Cancel, Discard
from ...contract.config import UNSUPPORTED, ConfigError, Degrees, ParallelConfig
from ...contract.recipe import ModelIdentity, UnreadableWeights
from ...contract.reports import Rejected, Standing
from ...sharding.plans import plan_for
from ...transport.pickling import CannotTravel
from ..base.devices import ranks_by_device
from ..base.errors import GroupError, OutOfMemory, RequestRefused
from ..base.events import PreloadEnded, prompt_id
from ..group.manager import GroupManager
from ..group.process_group import POLL_SECONDS, ProcessGroup
from ..group.release import RELEASE_SECONDS
from ..group.shortage import GIB
from ..group.start import GroupStart
from ..model.file_identity import FilesChanged
from ..model.weightless_model import XDiTModelPatcher
from ..strategy.choose import Choice, Workload, choose
from ..strategy.weight_fit import Footprint, with_weights
from .reading_display import LoadingBar, what_was_read
from .request import Preparing, prepare_weights

FAILURES = (
    CannotTravel,
    ConfigError,
    FilesChanged,
    GroupError,
    OSError,
    OutOfMemory,
    RequestRefused,
    UnreadableWeights,
)


class Preload:
    """The weights of one MODEL, wanted by `prompt` in the ranks of `start`. `stop`: the ranks are needed for something
    else; `wanted`: to be taken up again afterwards; `reading`: while the ranks do; `done` is set at the end, good or
    bad.
    """

    def __init__(self, patcher: XDiTModelPatcher, identity: ModelIdentity, start: GroupStart, prompt: str | None):
        self.patcher = patcher
        self.identity = identity
        self.start = start
        self.prompt = prompt
        self.wanted = True
        self.stop = threading.Event()
        self.done = threading.Event()
        self.reading: Preparing | None = None

    def drop(self) -> None:
        self.wanted = False
        self.stop.set()


class Preloads:
    """One after the other, in the order in which they were asked for. A prompt that samples comes first: what is read
    for another model stops at the next parameter and is begun anew after it.
    """

    def __init__(self, manager: GroupManager):
        self._manager = manager
        self._lock = threading.Lock()
        self._waiting: list[Preload] = []
        self._active: Preload | None = None
        self._thread: threading.Thread | None = None

    def any(self) -> bool:
        """Whether anything is being read, or waits."""
        with self._lock:
            return self._active is not None or bool(self._waiting)

    def ask(self, patcher: XDiTModelPatcher, start: GroupStart) -> None:
        """Have the ranks of `start` read the weights of a loader's MODEL once they are idle. What keeps them from it is
        one line in the console. Raises as `patcher.identity` does.
        """
        preload = Preload(patcher, patcher.identity(), start, prompt_id())
        with self._lock:
            self._waiting.append(preload)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="xdit-preload", daemon=True)
                self._thread.start()

    def wait_for(self, patcher: XDiTModelPatcher, steps: int) -> None:
        """Before a prompt samples with `patcher`: if its weights are being read, until that is at its end.

        `steps`: of the sampler. Raises InterruptProcessingException; FilesChanged.
        """
        if not self.any():
            return
        key = patcher.identity().key
        with self._lock:  # the prompt reads its weights itself, now
            self._waiting = [preload for preload in self._waiting if preload.identity.key != key]
            active = self._active
        if active is None or active.identity.key != key:
            return
        if (reading := active.reading) is None:
            active.drop()
            return
        bar = LoadingBar(reading.answers, reading.number, steps)
        while not active.done.wait(POLL_SECONDS):
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.look()
        bar.end()

    def drop(self) -> None:
        """Nothing is to be preloaded any more; waits until nothing is."""
        with self._lock:
            self._waiting.clear()
            active = self._active
            if active is not None:
                active.drop()
        if active is not None:
            active.done.wait(RELEASE_SECONDS)

    def _run(self) -> None:
        while (preload := self._next()) is not None:
            try:
                _preload(self._manager, preload)
            except FAILURES as error:
                if preload.wanted and not preload.start.abandoned:
                    logging.warning("xDiT: %s is not preloaded: %s", preload.identity.title, error)
            except BaseException:  # of whatever a node left in its MODEL: the next preload needs this thread
                logging.exception("xDiT: preloading %s", preload.identity.title)
            finally:
                self._end(preload)

    def _next(self) -> Preload | None:
        with self._lock:
            self._active = self._waiting.pop(0) if self._waiting else None
            if self._active is None:
                self._thread = None
            return self._active

    def _end(self, preload: Preload) -> None:
        with self._lock:
            if preload.stop.is_set() and preload.wanted:
                anew = Preload(preload.patcher, preload.identity, preload.start, preload.prompt)
                self._waiting.insert(0, anew)
            self._active = None
        preload.done.set()


def _preload(manager: GroupManager, preload: Preload) -> None:
    """Raises one of FAILURES."""
    while not preload.start.done.wait(POLL_SECONDS):
        if preload.stop.is_set():
            return
    group = preload.start.group
    if group is None:
        return  # the sampler says why
    with manager.background(preload.stop):
        while group.leftover is not None and not preload.stop.is_set():
            if group.leftover.done.wait(POLL_SECONDS):
                break
        standing: dict[int, Standing] = {}
        while len(standing) < group.size:
            if preload.stop.is_set() or not group.alive():
                return
            standing = group.ask(stacks=False, enough=preload.stop.is_set)
        group.held.measured(standing)
        try:
            _read(group, preload, standing)
        finally:
            group.events.emit(PreloadEnded())


def _read(group: ProcessGroup, preload: Preload, standing: dict[int, Standing]) -> None:
    patcher = preload.patcher
    config = patcher.parallel_config or ParallelConfig()
    choice = likely_choice(patcher, config, group.size)
    if group.held.everywhere(patcher.identity().key):
        return
    footprint = Footprint.of(patcher.model, plan_for(patcher.model.diffusion_model))
    needed = footprint.on_a_rank(choice.weights, choice.degrees)
    if (reason := lacking(group, standing, needed)) is not None:
        logging.info("xDiT: %s is not preloaded: %s", preload.identity.title, reason)
        return
    group.held.preloading(preload.prompt, preload.identity.key)
    preload.reading = prepare_weights(group, patcher, choice.degrees, replace(config, weights=choice.weights))
    _wait(group, preload, preload.reading)


def _wait(group: ProcessGroup, preload: Preload, reading: Preparing) -> None:
    """Until every rank answered; they stop reading when `preload.stop` is set."""
    stopped = False
    while not reading.answers.complete():
        reading.answers.take()
        if preload.stop.is_set() and not stopped:
            stopped = True
            group.send(Cancel(reading.number))
    group.send(Discard(reading.number))
    group.held.measured(group.ask(stacks=False))
    if stopped and any(isinstance(end, Rejected) for end in reading.answers.ends.values()):
        return
    reading.check()
    group.held.preloaded(preload.identity.key)
    preload.wanted = False
    if read := what_was_read(reading.answers, reading.began):
        logging.info("xDiT: preloaded %s: read %s", preload.identity.title, read)


def likely_choice(patcher: XDiTModelPatcher, config: ParallelConfig, ranks: int) -> Choice:
    """How a request will divide the weights: as configured, else as for one image and one condition, replicated unless
    that is configured. Raises ConfigError.
    """
    asked = config.degrees if config.strategy == "manual" else Degrees()
    work = Workload.of(patcher.model.diffusion_model, asked.cfg, (asked.batch,))
    config = replace(config, unsupported=UNSUPPORTED[0])  # what is refused for one image may be had for the request
    return with_weights(choose(config, ranks, work), config, ranks, work, None)


def lacking(group: ProcessGroup, standing: dict[int, Standing], needed: int) -> str | None:
    """Which device has no room for `needed` bytes of weights in each of its ranks beside what it holds; None: all have.

    By the rule after which ComfyUI unloads other models for these: a tenth more, and room to run.
    """
    for ranks in ranks_by_device(group.devices).values():
        weights, free = len(ranks) * needed, min(standing[rank].device_memory.free for rank in ranks)
        if 1.1 * weights + comfy.model_management.minimum_inference_memory() > free:
            return (
                f"{weights / GIB:.3g} GiB of weights do not fit in {free / GIB:.3g} GiB free on {group.name(ranks[0])}"
            )
    return None
