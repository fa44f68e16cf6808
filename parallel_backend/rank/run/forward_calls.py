"""Remote forward: the sampler stays in ComfyUI, the ranks run single calls of the diffusion model."""

from __future__ import annotations

import contextlib
from typing import Any

import comfy.model_management
import torch.distributed as dist

from ...contract.commands import Forward, Prepare
from ...sharding.engine.session import Session
from ...sharding.pipeline.schedule import Schedule
from ..attention.kernel_choice import attention_kernel
from .acceleration import accelerated
from .agreement import Agreement, CancelSignal
from .mesh import Mesh, Meshes
from .request_reader import RequestReader
from .sampling import pipelined, sharded


class ForwardServer:
    """Serves the model calls of one prepared "forward" request; `close` ends it.

    Every rank runs every call: cfg and batch groups all of it, as what a call is made of is decided in ComfyUI.
    """

    def __init__(self, reader: RequestReader, mesh: Mesh, meshes: Meshes, options: Prepare):
        self._reader = reader
        self._mesh = mesh
        self._model = reader.patchers[0].model
        self._session: Session | None = None  # of a rank that takes part
        with contextlib.ExitStack() as contexts:  # what was entered ends where the rest cannot be
            if mesh.takes_part:
                self._session = session = contexts.enter_context(sharded(reader.patchers, mesh, meshes))
                if options.compile:
                    contexts.enter_context(accelerated(reader.patchers, mesh, options, session.note))
                kernel = attention_kernel(options.attention, session.note)
                session.kernel_with_lse = contexts.enter_context(kernel)
                schedule = Schedule(options.patches, options.warmup_steps)
                contexts.enter_context(pipelined(reader.patchers, mesh, session, schedule, options.compile))
                reader.patchers[0].pre_run()
            self._contexts = contexts.pop_all()

    def call(self, message: Forward, cancelled: CancelSignal) -> tuple[Any, bytes, tuple[str, ...]]:
        """The diffusion model's output for one call, a tensor or several (rank 0's on every rank; None in a rank that
        takes no part), what it changed in the objects that came with the call, and the notes taken.
        """
        args, kwargs = self._reader.loads(message.stream, message.packs, message.forget)
        if self._session is None:
            return None, b"", ()
        self._reader.received.remember()
        Agreement(self._mesh.active, cancelled).stop_if_cancelled()
        model = self._model.diffusion_model
        with message.settings.held():
            output = getattr(model, message.method)(*args, **kwargs) if message.method else model(*args, **kwargs)
        if self._mesh.active is not None:
            several = isinstance(output, list | tuple)
            parts = [part.contiguous() for part in (output if several else [output])]
            for part in parts:
                if part.numel():  # a modality without tokens
                    dist.broadcast(part, 0, group=self._mesh.active)
            output = parts if several else parts[0]
        changes, lost = self._reader.received.changes()
        return output, changes, (*self._session.notes, *lost)

    def close(self) -> None:
        self._contexts.close()
        if self._session is not None:
            self._reader.patchers[0].cleanup()
        comfy.model_management.cleanup_models_gc()
