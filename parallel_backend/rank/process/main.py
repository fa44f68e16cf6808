"""A rank: joins the group, then serves one request after another until the host is gone."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import logging
import math
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import comfy.model_management
import torch
import torch.distributed as dist

from ...comfyui import folders
from ...contract.commands import (
    ArenaMessage,
    Discard,
    ForgetDegrees,
    ForgetModels,
    Forward,
    FreeMemory,
    Go,
    Prepare,
    Settle,
    Shutdown,
)
from ...contract.config import REPLICATE
from ...contract.doctor_messages import Probe
from ...contract.payload import SampleRequest
from ...contract.reports import (
    IDLE,
    LOADING,
    Failed,
    Finished,
    Prepared,
    Raised,
    Ready,
    Rejected,
    Settled,
)
from ...sharding.engine.engine import ShardedModel
from ...sharding.exchange import collective_counts
from ...sharding.foreign.model_watch import watch
from ...sharding.guided.peers import PeerFailed
from ...sharding.plans import follow_plans, plan_for
from ...system.printable_names import printable
from ...transport.packing import pack, pack_output
from ..run.agreement import ModelCalls
from ..run.changed_models import follow
from ..run.forward_calls import ForwardServer
from ..run.mesh import Meshes
from ..run.request_reader import RequestReader
from ..run.sampling import sample
from ..run.steps import Steps
from ..weights.model_store import ModelNotLoaded, ModelStore
from ..weights.model_weights import nothing
from ..weights.placement import place
from ..weights.rank_patcher import RankModelPatcher
from ..weights.reading_progress import RequestReading
from ..weights.weight_groups import WeightGroups
from . import prompt_server
from .doctor_probe import probe
from .heartbeat import Pulse, no_reading
from .host_link import HostLink
from .shutdown import leave
from .step_stream import AnsweredSteps, StepSender

NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # in torch's RuntimeError
VERSIONS = ("torch", "xfuser", "diffusers", "safetensors", "cloudpickle")


def run(boot: dict[str, Any]) -> None:
    logging.basicConfig(level=boot["log_level"], format=f"[rank {boot['rank']}] %(levelname)s %(message)s", force=True)
    prompt_server.install(boot["comfy_root"])
    folders.take_over(boot["folders"])
    device = torch.device("cuda", boot["index"]) if boot["kind"] == "cuda" else torch.device("cpu")
    pulse = Pulse(device)
    link = HostLink(boot["descriptor"], pulse.standing)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if boot["kind"] == "cuda" else "gloo",
        store=dist.FileStore(boot["store"], boot["world_size"]),
        rank=boot["rank"],
        world_size=boot["world_size"],
        timeout=timedelta(seconds=boot["collective_timeout"]),
    )
    rank = Rank(boot["rank"], device, link, pulse)
    pulse.beat(link.send)
    link.send(Ready(boot["rank"], os.getpid(), str(device), _versions()))
    with torch.inference_mode():
        rank.serve()
    pulse.stop()
    leave()


class Rank:
    def __init__(self, rank: int, device: torch.device, link: HostLink, pulse: Pulse):
        self._rank = rank
        self._link = link
        self._pulse = pulse
        self._device = device
        self._models = models = ModelStore(device, attach_plan)
        self._meshes = Meshes(device, models.forget_kernels)
        self._weight_groups = WeightGroups(device)
        self._reader = RequestReader(device, models)
        pulse.resident = lambda: models.resident() + self._reader.modules.resident()
        self._prepared: tuple[Prepare, Any] | None = None
        self._followed: list[Callable[[], None]] = []  # undoes what was done to the models for this request
        # Of a request whose model calls are served: what serves them, or why nothing can.
        self._forward: ForwardServer | Raised | None = None

    def serve(self) -> None:
        while True:
            message, descriptors = self._link.commands.get()
            if isinstance(message, Shutdown):
                return
            self._handle(message, descriptors)
            self._pulse.activity = IDLE

    def _handle(self, message: Any, descriptors: tuple[int, ...]) -> None:
        match message:
            case ArenaMessage():
                self._reader.add_arena(message, descriptors[0])
            case Prepare():
                self._prepare(message)
            case Go():
                assert self._prepared is not None, "Go came without a prepared request"
                self._go(*self._prepared)
            case Forward():
                self._forward_call(message)
            case Probe():
                self._probe(message)
            case Discard():
                self._end(message.request)
            case Settle():
                self._settle(message)
            case FreeMemory():
                self._do(message.request, lambda: self._free_memory(message))
            case ForgetModels():
                self._do(message.request, lambda: self._forget_models(message))
            case ForgetDegrees():
                self._do(message.request, self._forget_degrees)

    def _prepare(self, message: Prepare) -> None:
        self._pulse.activity = LOADING
        stage = "read"
        try:
            self._models.forget_classes(follow_plans(message.plans))
            request = self._reader.read(message)
            stage = "load"
            patchers = self._reader.patchers if message.kind != "preload" else self._missing(message.request)
            place(patchers, message.weights, message.degrees, self._rank)
            self._pulse.reading = reading = RequestReading(message.request, patchers)
            comfy.model_management.load_models_gpu(patchers)
            if message.parameters:
                request = self._with_parameters(message)
            stage = "follow"
            for patcher in {id(patcher.model): patcher for patcher in patchers}.values():
                if patcher.in_place is not None:
                    self._followed += follow(patcher, patcher.in_place)
            if self._followed:  # what is compiled or captured is the model as its file has it
                message = replace(message, compile=False)
        except Exception as error:
            if isinstance(error, ModelNotLoaded):
                why, stage = raised(error.cause), "load"
            else:
                why = raised(error)
            self._end(message.request)
            self._link.send(Rejected(message.request, self._rank, stage, why))
            return
        finally:
            self._pulse.reading = no_reading  # else it would keep the weights from being freed
        self._prepared = (message, request)
        self._link.send(Prepared(message.request, self._rank, tuple(self._reader.echo), reading().read))

    def _with_parameters(self, message: Prepare) -> Any:
        """The request once its models are loaded: before that their parameters were those of the files."""
        if message.weights != REPLICATE:
            raise NotImplementedError(
                "an object of this prompt holds parameters of the model, which no rank has whole where weights are"
                " divided: set Parallel Config's weights to replicate"
            )
        return self._reader.read_again(message)

    def _missing(self, request: int) -> list[RankModelPatcher]:
        """Those MODELs of a preload whose weights are not here. Cancel ends their reading."""
        missing = [patcher for patcher in self._reader.patchers if not patcher.model.xdit_weights.resident]
        for patcher in missing:
            patcher.model.xdit_weights.between = self._link.cancelled(request).throw_if_set
        return missing

    def _go(self, message: Prepare, request: Any) -> None:
        self._pulse.sampling(self._link.cancelled(message.request))
        try:
            mesh = self._meshes.get(message.degrees)
            if message.weights != REPLICATE:
                group = self._weight_groups.get(message.degrees)
                for patcher in self._reader.patchers:
                    patcher.model.xdit_weights.start(group)
            if message.kind == "forward":
                self._forward = ForwardServer(self._reader, mesh, self._meshes, message)
                return
            if not mesh.takes_part:
                self._finish(message.request)
            else:
                self._sample(message, request, mesh)
        except comfy.model_management.InterruptProcessingException:
            self._finish(message.request, cancelled=True)
        except Exception as error:
            if message.kind == "forward":  # its calls follow, and each of them is answered with this
                logging.exception("request %s", message.request)
                self._end(message.request)
                self._forward = raised(error)
                return
            self._fail(message.request, error)
        self._end(message.request)

    def _sample(self, message: Prepare, request: SampleRequest, mesh) -> None:
        steps = self._steps(message, request) if request.arguments.pop("callback") and self._rank == 0 else None
        if self._rank == 0:
            self._reader.received.remember()
        try:
            latent, random, notes = sample(
                request,
                self._reader.patchers,
                mesh,
                self._meshes,
                message,
                self._link.cancelled(message.request),
                steps,
            )
        finally:
            if steps is not None:
                steps.finish()
        if self._rank != 0:
            self._finish(message.request, notes=notes)
            return
        changes, lost = self._reader.received.changes()
        self._finish(message.request, result=(pack(latent), random), changes=changes, notes=(*notes, *lost))

    def _steps(self, message: Prepare, request: SampleRequest) -> Steps:
        if request.answered:
            return AnsweredSteps(self._link, message.request, self._rank, self._device)
        return StepSender(self._link, message.request, self._rank)

    def _forward_call(self, message: Forward) -> None:
        served = self._forward
        if isinstance(served, Raised):
            self._link.send(Failed(message.request, self._rank, served, collective_counts.begun()))
            return
        assert served is not None, "a model call came before Go, or after Discard"
        cancelled = self._link.cancelled(message.request)
        self._pulse.sampling(cancelled)
        try:
            output, changes, notes = served.call(message, cancelled)
            result = pack_output(output) if self._rank == 0 else None
        except comfy.model_management.InterruptProcessingException:
            self._finish(message.request, cancelled=True)
        except Exception as error:
            self._fail(message.request, error)
        else:
            self._finish(message.request, result=result, changes=changes, notes=notes)

    def _finish(self, request: int, **what: Any) -> None:
        self._link.send(Finished(request, self._rank, collectives=collective_counts.begun(), **what))

    def _probe(self, message: Probe) -> None:
        try:
            self._link.send(probe(message.request, self._rank, self._device))
        except Exception as error:
            self._fail(message.request, error)

    def _do(self, request: int, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:
            self._fail(request, error)
        else:
            self._finish(request)

    def _free_memory(self, message: FreeMemory) -> None:
        if not message.caches_only:
            self._forget_degrees()
        if self._rank not in message.ranks:
            return
        if not message.caches_only:
            comfy.model_management.free_memory(1e30, self._device)  # to ask about others would take memory there
            self._reader.modules.release()
        give_back()

    def _forget_degrees(self) -> None:
        self._meshes.release()
        self._weight_groups.release()
        gc.collect()  # what a run put into its options holds its groups, in circles

    def _forget_models(self, message: ForgetModels) -> None:
        self._reader.models.forget(message.keys)
        give_back()

    def _fail(self, request: int, error: Exception) -> None:
        cause = raised(error)
        logging.exception("request %s", request)
        self._link.send(Failed(request, self._rank, cause, collective_counts.begun()))

    def _settle(self, message: Settle) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._link.send(Settled(message.request, self._rank))

    def _end(self, request: int) -> None:
        if isinstance(self._forward, ForwardServer):
            self._forward.close()
        self._forward = None
        self._prepared = None
        for patcher in self._reader.patchers:
            patcher.model.xdit_weights.stop()
            patcher.model.xdit_weights.between = nothing
        while self._followed:
            self._followed.pop()()
        self._reader.end()
        self._link.done(request)


def raised(error: Exception) -> Raised:
    """`error`, which is being handled, for the host."""
    out_of_memory = is_out_of_memory(error)
    at = math.inf if isinstance(error, PeerFailed) else time.monotonic()  # never the first cause
    reason = printable(f"{type(error).__name__}: {error}")
    return Raised(reason, printable(traceback.format_exc()), at, out_of_memory)


def give_back() -> None:
    """What is free in this process goes back to the device and to the system."""
    comfy.model_management.cleanup_models_gc()
    gc.collect()
    comfy.model_management.soft_empty_cache()
    ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed below its newest allocation


def is_out_of_memory(error: Exception) -> bool:
    """Of a GPU, or of the machine."""
    return comfy.model_management.is_oom(error) or isinstance(error, MemoryError) or NO_MEMORY in str(error)


def attach_plan(model: Any) -> None:
    """Put the hooks of its architecture's plan on a freshly loaded BaseModel, if there is a plan; in any case it is
    watched from now on.
    """
    model.xdit_calls = ModelCalls(model.diffusion_model)
    watch(model.diffusion_model)
    plan = plan_for(model.diffusion_model)
    if plan is not None:
        model.xdit_sharded = ShardedModel(model.diffusion_model, plan)


def _versions() -> dict[str, str]:
    """Of those that are installed: a rank starts without what its requests do not use."""
    found = {}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
