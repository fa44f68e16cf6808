"""Runs a request's guider in this rank, sharded as its degrees say."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

from ...comfyui.outer_sample import call_outer_sample
from ...contract.commands import Prepare
from ...contract.payload import SampleRequest
from ...contract.random_state import RandomState
from ...sharding.engine.engine import ShardedModel
from ...sharding.engine.session import Session
from ...sharding.foreign.foreign_conditions import foreign_controls
from ...sharding.foreign.model_watch import watch
from ...sharding.foreign.node_code import OURS
from ...sharding.guided.batch import BatchParallel
from ...sharding.guided.cfg import CfgParallel
from ...sharding.pipeline.pipelined_model import PipelinedModel
from ...sharding.pipeline.schedule import Schedule
from ..attention.kernel_choice import attention_kernel
from ..weights.lock_step import LockStep, in_lock_step
from .acceleration import accelerated
from .agreement import Agreement, CancelSignal
from .mesh import Mesh, Meshes
from .steps import Steps


@contextlib.contextmanager
def sharded(patchers: list[Any], mesh: Mesh, meshes: Meshes) -> Iterator[Session]:
    """Sequence parallelism on every planned model of the request, for as long as the context lasts."""
    sp = mesh.sp
    assert sp is not None, "this rank sits the request out"
    session = Session(sp, meshes.usp(mesh))
    for patcher in patchers:
        if (model := sharded_model(patcher.model)) is not None:
            model.session = session if sp.size > 1 or mesh.pipe is not None else None
            model.whole_weights = not patcher.model.xdit_weights.divided
    try:
        yield session
    finally:
        for model in _planned(patchers):
            model.session = model.call = None


@contextlib.contextmanager
def pipelined(patchers: list[Any], mesh: Mesh, session: Session, schedule: Schedule, graphs: bool) -> Iterator[None]:
    """The stages of every planned model, with PipeFusion, for as long as the context lasts. `graphs`: whether CUDA
    graphs hold addresses.
    """
    pipe = mesh.pipe
    if pipe is None:
        yield
        return
    with contextlib.ExitStack() as stages:
        for model in _planned(patchers):
            stage = PipelinedModel(model, pipe, schedule, session.note, keep_memory=graphs and model.plan.graphs)
            stages.callback(watch(model.model).look)  # after it: what it remembers of the model holds the stage else
            stages.callback(stage.stop)
            stage.start()
        yield


def _planned(patchers: list[Any]) -> list[ShardedModel]:
    return [found for found in (sharded_model(patcher.model) for patcher in patchers) if found is not None]


def sharded_model(model: torch.nn.Module) -> ShardedModel | None:
    return getattr(model, "xdit_sharded", None)


def sample(
    request: SampleRequest,
    patchers: list[Any],
    mesh: Mesh,
    meshes: Meshes,
    options: Prepare,
    cancelled: CancelSignal,
    steps: Steps | None,
) -> tuple[torch.Tensor, RandomState, tuple[str, ...]]:
    """The sampled latent (as `guider.outer_sample` returns it; only rank 0's counts), the random state after it, and
    the notes taken. `steps`: tells the host of each, on the rank that does.

    Raises InterruptProcessingException on all ranks at the same step boundary when cancelled.
    """
    guider = request.guider
    device = comfy.model_management.get_torch_device()
    executor = WrapperExecutor.new_class_executor(
        guider.outer_sample,
        guider,
        get_all_wrappers(WrappersMP.OUTER_SAMPLE, guider.model_options, is_model_options=True),
    )
    schedule = Schedule(
        options.patches, options.warmup_steps, len(request.arguments["sigmas"]) - 1, exact_because(guider.model_options)
    )
    models = list({id(patcher.model): patcher.model for patcher in patchers}.values())
    agreement = Agreement(mesh.active, cancelled, guider, models, schedule)
    _put_first(guider.model_options, WrappersMP.PREDICT_NOISE, [agreement.guided])
    _put_first(guider.model_options, WrappersMP.SAMPLER_SAMPLE, [agreement.sampler])
    on_step = steps.callback(agreement) if steps is not None else None
    arguments = {**request.arguments, "callback": _counting(schedule, on_step), "disable_pbar": True}
    with contextlib.ExitStack() as contexts:
        contexts.enter_context(options.settings.held())
        session = contexts.enter_context(sharded(patchers, mesh, meshes))
        session.controls = tuple(foreign_controls(guider.conds.values()))
        session.kernel_with_lse = contexts.enter_context(attention_kernel(options.attention, session.note))
        contexts.enter_context(_agreed_memory(patchers, mesh))
        if options.compile:
            contexts.enter_context(accelerated(patchers, mesh, options, session.note))
        contexts.enter_context(pipelined(patchers, mesh, session, schedule, options.compile))
        lock_step = contexts.enter_context(in_lock_step(patchers, mesh.active, mesh.degrees))
        conditions = [agreement.conditions, *dividers(mesh, session.note, lock_step)]
        _put_first(guider.model_options, WrappersMP.CALC_COND_BATCH, conditions)
        contexts.enter_context(agreement.around_models())
        request.random.restore(device)
        agreement.stop_if_cancelled()
        latent = agreement.run(lambda: call_outer_sample(executor.execute, arguments))
        random = RandomState.take(device)
    return latent, random, tuple(session.notes)


def exact_because(model_options: dict[str, Any]) -> str:
    """Why PipeFusion cannot tell a model call's tokens from those of the call before, or ""."""
    if "context_handler" in model_options:
        return "context windows show the model other frames in each call"
    if "model_function_wrapper" in model_options:
        return "a wrapper of the model function may show it other tokens in each call"
    return ""


def _counting(schedule: Schedule, on_step: Callable | None) -> Callable:
    def stepped(*args) -> None:
        schedule.done += 1
        if on_step is not None:
            on_step(*args)

    return stepped


def dividers(mesh: Mesh, note: Callable[[str], None], lock_step: LockStep | None) -> list[Callable]:
    """What divides a guided call: its conditions first, then their rows; and what keeps the parts in step, if set."""
    around = lock_step.around if lock_step is not None else None
    cfg = CfgParallel(mesh.cfg, note) if mesh.cfg is not None else None
    batch = BatchParallel(mesh.batch, note, around) if mesh.batch is not None else None
    return [divider for divider in (cfg, batch, lock_step) if divider is not None]


def _put_first(model_options: dict[str, Any], kind: str, own: list[Callable]) -> None:
    wrappers = model_options["transformer_options"].setdefault("wrappers", {}).setdefault(kind, {})
    others = dict(wrappers)
    wrappers.clear()
    wrappers.update({OURS: own, **others})


@contextlib.contextmanager
def _agreed_memory(patchers: list[Any], mesh: Mesh) -> Iterator[None]:
    """ComfyUI batches conditions by free memory, which differs between ranks; all use the smallest, asked once."""
    if mesh.active is None:
        yield
        return
    device = comfy.model_management.get_torch_device()
    free = torch.tensor([comfy.model_management.get_free_memory(device)], dtype=torch.int64)
    torch.distributed.all_reduce(free, op=torch.distributed.ReduceOp.MIN, group=mesh.active)
    agreed = int(free.item())
    for patcher in patchers:
        patcher.get_free_memory = lambda device: agreed
    try:
        yield
    finally:
        for patcher in patchers:
            del patcher.get_free_memory
