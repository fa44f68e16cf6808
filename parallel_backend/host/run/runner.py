"""One sampling run: choose degrees, send the request, stream its steps, return its latent."""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
import tqdm

from ...contract.config import REPLICATE, ConfigError, Degrees, ParallelConfig
from ...contract.payload import SampleRequest
from ...contract.random_state import RandomState
from ...contract.reports import Finished, Step
from ...transport.packing import unpack
from ...transport.pickling import CannotTravel
from ...transport.returned import apply_changes
from ..base.devices import resolve
from ..base.errors import OutOfMemory
from ..base.events import RunStarted, prompt_id
from ..describe.changes import Changes
from ..describe.compile_nodes import as_configured
from ..group.manager import GroupManager
from ..group.process_group import ProcessGroup
from ..group.release import forget, free
from ..group.shortage import ADVICE
from ..strategy.choose import Choice, Workload, choose, refusal
from ..strategy.link_speed import measured_links
from ..strategy.measured_best import best_key, remembered_best
from ..strategy.weight_fit import measured_room, with_weights
from ..strategy.when_to_compile import compile_wanted, count_sampled
from .callback import Answered, Shown, only_looks
from .latent_size import refuse_too_large
from .loaded_models import LoadedModels
from .make_room import make_room
from .preload import Preloads
from .remote_forward import sample_here
from .request import Request, collect, prepare
from .workload import workload


class Runner:
    """Samples in the ranks, one run at a time."""

    def __init__(self, manager: GroupManager, preloads: Preloads, loaded_models: LoadedModels):
        self.manager = manager
        self._preloads = preloads
        self._loaded_models = loaded_models
        self.sampled: Counter[str] = Counter()  # steps of each architecture since ComfyUI started

    def run(
        self,
        executor,
        arguments: dict[str, Any],
        callback: Callable | None,
        disable_pbar: bool,
        degrees: Degrees | None = None,
    ) -> torch.Tensor:
        """`guider.outer_sample` in the ranks; what it returns, on ComfyUI's device. When memory runs out it is tried
        once more. `degrees` are taken instead of what the MODEL's Parallel Config says; they may leave devices idle.

        Raises InterruptProcessingException when cancelled; ConfigError, RequestRefused, OutOfMemory or GroupError.
        """
        return self.manager.events.observed(
            self._exclusively, executor, arguments, callback, disable_pbar, degrees=degrees
        )

    def _exclusively(
        self,
        executor,
        arguments: dict[str, Any],
        callback: Callable | None,
        disable_pbar: bool,
        degrees: Degrees | None,
    ) -> torch.Tensor:
        self._preloads.wait_for(executor.class_obj.model_patcher, len(arguments["sigmas"]) - 1)
        with self.manager.used(), self._loaded_models.withdrawn():
            return _tried_twice(functools.partial(self._run, executor, arguments, callback, disable_pbar, degrees))

    def _run(
        self,
        executor,
        arguments: dict[str, Any],
        callback: Callable | None,
        disable_pbar: bool,
        degrees: Degrees | None,
        free_first: bool,
    ) -> torch.Tensor:
        guider = executor.class_obj
        asked = as_configured(guider, guider.model_patcher.parallel_config or ParallelConfig())
        devices = resolve(asked.devices)
        refuse_too_large(arguments["noise"], devices)
        changes = Changes.met_by_guider(guider)
        steered = callback is not None and not only_looks(callback)
        work = workload(guider, arguments, devices, changes, steered)
        if degrees is None:  # what cannot be had is refused before anything starts
            with_weights(choose(asked, devices.size, work), asked, devices.size, work, None)
        group = self.manager.group(devices, asked.may_leave_out)
        compiled = compile_wanted(asked, devices.kind, work, self.sampled) and not changes.uncompiled
        configured = replace(asked, compile="on" if compiled else "off")
        choice = _choice(guider, arguments["noise"].shape, configured, group, work, degrees, ran_out=free_first)
        config = replace(configured, weights=choice.weights)
        logging.info("xDiT: %s on %s%s", choice, group.devices, ", compiled" if compiled else "")
        if free_first:
            free(group)
        _make_room(guider, arguments["noise"].shape, group, choice)
        group.events.emit(RunStarted(prompt_id(), group.devices, str(choice.degrees)))
        started, steps = time.monotonic(), len(arguments["sigmas"]) - 1
        try:
            sampling = _sample_request(guider, arguments, callback is not None, steered)
            request = prepare(group, "sample", sampling, choice.degrees, config, steps, changes)
        except CannotTravel as error:
            idle = _divides_nothing(choice.degrees)
            logging.warning(
                "xDiT: %s; the sampler stays in ComfyUI and each model call goes to the ranks%s", error, idle
            )
            return _sample_here(executor, arguments, callback, disable_pbar, group, choice.degrees, config, changes)
        logging.debug("xDiT: request prepared in %.3f s", time.monotonic() - started)
        latent = _stream(group, request, guider, callback, steered, disable_pbar, steps)
        count_sampled(self.sampled, work, devices.kind, steps, compiled)
        return latent


def _tried_twice(run: Callable[..., torch.Tensor]) -> torch.Tensor:
    """`run(free_first=…)`; when memory runs out, once more after it was freed. Raises OutOfMemory, beside its own."""
    try:
        return run(free_first=False)
    except OutOfMemory as first:
        if first.final:
            raise
        how = "after freeing the ranks' memory" if first.group_lives else "in a new process group"
        logging.warning("xDiT: %s; trying once more %s", first, how)
    try:
        return run(free_first=True)
    except OutOfMemory as second:
        raise OutOfMemory(f"{second}; this was the second try. {ADVICE}", second.group_lives) from None


def _choice(
    guider: Any,
    shape: torch.Size,
    config: ParallelConfig,
    group: ProcessGroup,
    work: Workload,
    degrees: Degrees | None,
    ran_out: bool,
) -> Choice:
    """Degrees and placement of the weights. `shape`: of the latent; `degrees`: taken in place of the configured ones;
    `ran_out`: memory did, a moment ago.
    """
    room = None
    if config.weights != REPLICATE:
        room = measured_room(guider, shape, group, work.plan, ran_out)
    asked = config if degrees is None else replace(config, strategy="manual", degrees=degrees)
    return with_weights(_degrees(guider.model_patcher, config, group, work, degrees), asked, group.size, work, room)


def _make_room(guider: Any, shape: torch.Size, group: ProcessGroup, choice: Choice) -> None:
    """In the ranks, where another model took this one's place in the prompt; and on the GPUs, beside ComfyUI's own."""
    model = guider.model_patcher.identity().key
    if superseded := group.held.superseded(prompt_id(), model):
        forget(group, superseded)
    make_room(guider, shape, group, model, choice)


def _divides_nothing(degrees: Degrees) -> str:
    """Of degrees, those that need the sampler in the ranks: what a model call is made of is decided in ComfyUI."""
    idle = [f"{name} {getattr(degrees, name)}" for name in ("cfg", "batch") if getattr(degrees, name) > 1]
    return f", where nothing is divided by {' and '.join(idle)}: every rank runs the whole call" if idle else ""


def _degrees(
    patcher: Any, config: ParallelConfig, group: ProcessGroup, work: Workload, degrees: Degrees | None
) -> Choice:
    if degrees is not None:
        if (reason := refusal(degrees, config, group.size, work)) is not None:
            raise ConfigError(reason)
        return Choice(degrees, "to be measured")
    links = measured_links(group.devices) if group.devices.kind == "cuda" else None
    best = None
    if config.strategy == "auto":
        best = remembered_best(best_key(patcher, work, group.devices, config))
    return choose(config, group.size, work, links, best.choice if best is not None else None)


def _sample_here(*run: Any) -> torch.Tensor:
    """The sampler in ComfyUI's process has come some way when memory runs out, so it is not run again."""
    try:
        return sample_here(*run)
    except OutOfMemory as error:
        raise OutOfMemory(f"{error}. {ADVICE}", error.group_lives, final=True) from None


def _sample_request(guider: Any, arguments: dict[str, Any], watched: bool, steered: bool) -> SampleRequest:
    """`watched`: whether there is a callback; `steered`: whether the sampler waits for what it makes of a step."""
    state = RandomState.take(guider.model_patcher.load_device)
    return SampleRequest(guider, {**arguments, "callback": watched}, state, steered)


def _stream(
    group: ProcessGroup,
    request: Request,
    guider: Any,
    callback: Callable | None,
    steered: bool,
    disable_pbar: bool,
    steps: int,
) -> torch.Tensor:
    device = guider.model_patcher.load_device
    shown: Answered | Shown | None = None
    if callback is not None:
        shown = Answered(callback, device, guider, group.send) if steered else Shown(callback, device)
    with tqdm.tqdm(total=steps, disable=disable_pbar) as bar:

        def on_message(rank: int, message: Any) -> None:
            if isinstance(message, Step):
                bar.update(message.step + 1 - bar.n)
                if shown is not None:
                    shown.step(message)

        finished = collect(group, request, on_message)
    _raise_if_cancelled(finished)
    for note in finished[0].notes:
        logging.info("xDiT: %s", note)
    apply_changes(finished[0].changes, request.numbered, device)
    latent, state = finished[0].result
    state.restore(device)
    return unpack(latent, device)


def _raise_if_cancelled(finished: list[Finished]) -> None:
    if any(message.cancelled for message in finished):
        comfy.model_management.interrupt_current_processing(False)
        raise comfy.model_management.InterruptProcessingException()
