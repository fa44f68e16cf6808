"""One sampling run: choose degrees, send the request, stream its steps, return its latent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
import tqdm

from ...contract.config import REPLICATE, ConfigError, Degrees, ParallelConfig
from ...contract.protocol import Finished, SampleRequest, Step
from ...contract.random_state import RandomState
from ...sharding.engine.call_modes import OVERRIDE, replaced_blocks
from ...sharding.foreign.kernel_choice import runs_torchs_kernel
from ...sharding.foreign.node_attention import undividable_attention
from ...sharding.guided.guided_call import conditions_stay_together, rows_stay_together, weighs_conditions
from ...sharding.plans import plan_for
from ...transport.packing import unpack
from ...transport.pickling import CannotTravel
from ...transport.returned import apply_changes
from ..base.devices import DeviceSet, resolve
from ..base.errors import OutOfMemory
from ..base.events import RunStarted, emit, observed, prompt_id
from ..describe.changes import Changes
from ..describe.compile_nodes import as_configured
from ..group.manager import manager
from ..group.process_group import ProcessGroup
from ..group.release import forget, free
from ..group.shortage import ADVICE
from ..strategy.choose import Choice, Workload, choose, refusal
from ..strategy.condition_counts import count_conditions
from ..strategy.link_speed import measured_links
from ..strategy.measured_best import best_key, remembered_best
from ..strategy.weight_fit import measured_room, with_weights
from ..strategy.when_to_compile import compile_wanted, count_sampled
from .callback import Answered, Shown, only_looks
from .latent_size import refuse_too_large
from .loaded_models import registered
from .make_room import make_room
from .preload import preloads
from .remote_forward import sample_here
from .request import Request, collect, prepare


@observed
def run(
    executor,
    arguments: dict[str, Any],
    callback: Callable | None,
    disable_pbar: bool,
    degrees: Degrees | None = None,
) -> torch.Tensor:
    """`guider.outer_sample` in the ranks; what it returns, on ComfyUI's device. Out of memory, it is tried once more.

    `degrees` are taken instead of what the MODEL's Parallel Config says; they may leave devices idle.

    Raises InterruptProcessingException when cancelled; ConfigError, RequestRefused, OutOfMemory or GroupError.
    """
    preloads.wait_for(executor.class_obj.model_patcher, len(arguments["sigmas"]) - 1)
    with manager.used(), registered.withdrawn():
        return _run_twice(executor, arguments, callback, disable_pbar, degrees)


def _run_twice(*run: Any) -> torch.Tensor:
    try:
        return _run(*run)
    except OutOfMemory as first:
        if first.final:
            raise
        how = "after freeing the ranks' memory" if first.group_lives else "in a new process group"
        logging.warning("xDiT: %s; trying once more %s", first, how)
    try:
        return _run(*run, free_first=True)
    except OutOfMemory as second:
        raise OutOfMemory(f"{second}; this was the second try. {ADVICE}", second.group_lives) from None


def _run(
    executor,
    arguments: dict[str, Any],
    callback: Callable | None,
    disable_pbar: bool,
    degrees: Degrees | None,
    free_first: bool = False,
) -> torch.Tensor:
    guider = executor.class_obj
    patcher = guider.model_patcher
    config = as_configured(guider, patcher.parallel_config or ParallelConfig())
    devices = resolve(config.devices)
    refuse_too_large(arguments["noise"], devices)
    changes = Changes.met_by_guider(guider)
    steered = callback is not None and not only_looks(callback)
    work = workload(guider, arguments, devices, changes, steered)
    if degrees is None:  # what cannot be had is refused before anything starts
        with_weights(choose(config, devices.size, work), config, devices.size, work, None)
    group = manager.group(devices, config.may_leave_out)
    compiled = compile_wanted(config, devices.kind, work) and not changes.uncompiled
    config = replace(config, compile="on" if compiled else "off")
    room = None
    if config.weights != REPLICATE:
        room = measured_room(guider, arguments["noise"].shape, group, work.plan)
    if room is not None and free_first:
        room = replace(room, ran_out=True)
    asked = config if degrees is None else replace(config, strategy="manual", degrees=degrees)
    choice = with_weights(_choice(patcher, config, group, work, degrees), asked, group.size, work, room)
    config = replace(config, weights=choice.weights)
    logging.info("xDiT: %s on %s%s", choice, group.devices, ", compiled" if config.compile == "on" else "")
    if free_first:
        free(group)
    model = patcher.identity().key
    if superseded := group.held.superseded(prompt_id(), model):
        forget(group, superseded)
    make_room(guider, arguments["noise"].shape, group, model, choice)
    emit(RunStarted(prompt_id(), group.devices, str(choice.degrees)))
    started, steps = time.monotonic(), len(arguments["sigmas"]) - 1
    try:
        sampling = _sample_request(guider, arguments, callback)
        request = prepare(group, "sample", sampling, choice.degrees, config, steps, changes)
    except CannotTravel as error:
        idle = _divides_nothing(choice.degrees)
        logging.warning("xDiT: %s; the sampler stays in ComfyUI and each model call goes to the ranks%s", error, idle)
        return _sample_here(executor, arguments, callback, disable_pbar, group, choice.degrees, config, changes)
    logging.debug("xDiT: request prepared in %.3f s", time.monotonic() - started)
    latent = _stream(group, request, guider, callback, disable_pbar, steps)
    count_sampled(work, devices.kind, steps, compiled=config.compile == "on")
    return latent


def _divides_nothing(degrees: Degrees) -> str:
    """Of degrees, those that need the sampler in the ranks: what a model call is made of is decided in ComfyUI."""
    idle = [f"{name} {getattr(degrees, name)}" for name in ("cfg", "batch") if getattr(degrees, name) > 1]
    return f", where nothing is divided by {' and '.join(idle)}: every rank runs the whole call" if idle else ""


def _choice(
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


def workload(
    guider: Any, arguments: dict[str, Any], devices: DeviceSet, changes: Changes, steered: bool = False
) -> Workload:
    """`arguments`: those of `guider.outer_sample`; `changes`: what it meets in ComfyUI's process; `steered`: whether a
    callback may change the guider.
    """
    options = guider.model_options.get("transformer_options", {})
    model = guider.model_patcher.model.diffusion_model
    plan = plan_for(model)
    shape = tuple(arguments["noise"].shape)
    call = (guider.model_patcher, guider.model_options, list(guider.conds.values()))
    rows = shape[0] if shape else 1
    conditions = count_conditions(guider, arguments["sampler"], steered)
    return Workload.of(
        model,
        conditions.expected,
        shape,
        together=weighs_conditions(*call),
        conditions_undivided=conditions_stay_together(*call, rows),
        rows_undivided=rows_stay_together(*call, rows),
        hook_lora=bool(guider.model_patcher.hook_patches),
        most_conditions=conditions.most,
        steps=len(arguments["sigmas"]) - 1,
        undivided_blocks=replaced_blocks(options) or undividable_attention(options),
        ring_of_two=plan is not None and plan.ring_of_two and _kernel_is_ours(options) and devices.share_memory,
        undivided=changes.undivided,
    )


def _kernel_is_ours(options: dict[str, Any]) -> bool:
    """Whether no node and no flag of ComfyUI's (--use-sage-attention) brings an attention function of its own, which a
    ring could not use: it needs the log-sum-exp, which all kernels of Parallel Config give.
    """
    return runs_torchs_kernel(options.get(OVERRIDE))


def _sample_request(guider: Any, arguments: dict[str, Any], callback: Callable | None) -> SampleRequest:
    state = RandomState.take(guider.model_patcher.load_device)
    answered = callback is not None and not only_looks(callback)
    return SampleRequest(guider, {**arguments, "callback": callback is not None}, state, answered)


def _stream(
    group: ProcessGroup,
    request: Request,
    guider: Any,
    callback: Callable | None,
    disable_pbar: bool,
    steps: int,
) -> torch.Tensor:
    device, shown = guider.model_patcher.load_device, None
    if callback is not None:
        looks = only_looks(callback)
        shown = Shown(callback, device) if looks else Answered(callback, device, guider, group.send)
    with tqdm.tqdm(total=steps, disable=disable_pbar) as bar:

        def on_message(rank: int, message: Any) -> None:
            if isinstance(message, Step):
                bar.update(message.step + 1 - bar.n)
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
