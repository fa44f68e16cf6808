"""A rank: joins the group, then serves one request after another until the host is gone."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import traceback
from datetime import timedelta
from typing import Any

import comfy.model_management
import torch
import torch.distributed as dist

from ..protocol import (
    ArenaMessage,
    Discard,
    Failed,
    Finished,
    Forward,
    Go,
    Prepare,
    Prepared,
    Probe,
    Ready,
    Rejected,
    SampleRequest,
    Shutdown,
)
from ..sharding.engine import ShardedModel
from ..sharding.plans import plan_for
from ..transport.packing import pack
from . import prompt_server
from .forward import ForwardServer
from .link import HostLink
from .mesh import Meshes
from .probe import probe
from .reader import RequestReader
from .sampling import sample
from .steps import StepSender
from .store import ModelStore

VERSIONS = ("torch", "xfuser", "diffusers", "safetensors", "cloudpickle")


def run(boot: dict[str, Any]) -> None:
    logging.basicConfig(level=boot["log_level"], format=f"[rank {boot['rank']}] %(levelname)s %(message)s", force=True)
    prompt_server.install()
    link = HostLink(boot["descriptor"])
    device = torch.device("cuda", boot["index"]) if boot["kind"] == "cuda" else torch.device("cpu")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if boot["kind"] == "cuda" else "gloo",
        store=dist.FileStore(boot["store"], boot["world_size"]),
        rank=boot["rank"],
        world_size=boot["world_size"],
        timeout=timedelta(seconds=boot["collective_timeout"]),
    )
    rank = Rank(boot["rank"], device, link)
    link.send(Ready(boot["rank"], os.getpid(), str(device), _versions()))
    with torch.inference_mode():
        rank.serve()


class Rank:
    def __init__(self, rank: int, device: torch.device, link: HostLink):
        self._rank = rank
        self._link = link
        self._device = device
        self._meshes = Meshes(device)
        self._reader = RequestReader(device, ModelStore(device, attach_plan))
        self._prepared: tuple[Prepare, Any] | None = None
        self._forward: ForwardServer | None = None

    def serve(self) -> None:
        while True:
            message, descriptors = self._link.commands.get()
            if isinstance(message, Shutdown):
                return
            self._handle(message, descriptors)

    def _handle(self, message: Any, descriptors: tuple[int, ...]) -> None:
        match message:
            case ArenaMessage():
                self._reader.add_arena(message, descriptors[0])
            case Prepare():
                self._prepare(message)
            case Go():
                self._go(*self._prepared)
            case Forward():
                self._forward_call(message)
            case Probe():
                self._probe(message)
            case Discard():
                self._end(message.request)

    def _prepare(self, message: Prepare) -> None:
        stage = "read"
        try:
            request = self._reader.read(message)
            stage = "load"
            comfy.model_management.load_models_gpu(self._reader.patchers)
        except Exception as error:
            self._end(message.request)
            self._link.send(
                Rejected(message.request, self._rank, stage, f"{type(error).__name__}: {error}", traceback.format_exc())
            )
            return
        self._prepared = (message, request)
        self._link.send(Prepared(message.request, self._rank, tuple(self._reader.echo)))

    def _go(self, message: Prepare, request: Any) -> None:
        try:
            mesh = self._meshes.get(message.degrees)
            if message.kind == "forward":
                self._forward = ForwardServer(self._reader, mesh, self._meshes, message.attention)
                return
            if not mesh.takes_part:
                self._link.send(Finished(message.request, self._rank))
            else:
                self._sample(message, request, mesh)
        except comfy.model_management.InterruptProcessingException:
            self._link.send(Finished(message.request, self._rank, cancelled=True))
        except Exception as error:
            self._fail(message.request, error)
        self._end(message.request)

    def _sample(self, message: Prepare, request: SampleRequest, mesh) -> None:
        wanted = request.arguments.pop("callback") and self._rank == 0
        steps = StepSender(self._link, message.request, self._rank)
        try:
            latent, notes = sample(
                request,
                self._reader.patchers,
                mesh,
                self._meshes,
                message.attention,
                self._link.cancelled(message.request),
                steps if wanted else None,
            )
        finally:
            steps.finish()
        result = (pack(latent), *self._rng()) if self._rank == 0 else None
        self._link.send(Finished(message.request, self._rank, result=result, notes=notes))

    def _rng(self) -> tuple:
        """The random state after sampling, CPU and accelerator, for ComfyUI to go on from."""
        accelerator = pack(torch.cuda.get_rng_state()) if self._device.type == "cuda" else None
        return pack(torch.get_rng_state()), accelerator

    def _forward_call(self, message: Forward) -> None:
        cancelled = self._link.cancelled(message.request)
        try:
            output, notes = self._forward.call(message, cancelled)
        except comfy.model_management.InterruptProcessingException:
            self._link.send(Finished(message.request, self._rank, cancelled=True))
        except Exception as error:
            self._fail(message.request, error)
        else:
            result = pack(output) if self._rank == 0 else None
            self._link.send(Finished(message.request, self._rank, result=result, notes=notes))

    def _probe(self, message: Probe) -> None:
        try:
            self._link.send(probe(message.request, self._rank, self._device))
        except Exception as error:
            self._fail(message.request, error)

    def _fail(self, request: int, error: Exception) -> None:
        logging.exception("request %s", request)
        text = traceback.format_exc()
        self._link.send(Failed(request, self._rank, f"{type(error).__name__}: {error}", text))

    def _end(self, request: int) -> None:
        if self._forward is not None:
            self._forward.close()
            self._forward = None
        self._prepared = None
        self._reader.patchers = []
        self._link.done(request)


def attach_plan(model: torch.nn.Module) -> None:
    """Put the hooks of its architecture's plan on a freshly loaded model, if there is a plan."""
    plan = plan_for(model.diffusion_model)
    if plan is not None:
        model.xdit_sharded = ShardedModel(model.diffusion_model, plan)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in VERSIONS}
