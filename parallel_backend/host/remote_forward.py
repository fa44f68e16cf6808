"""Remote forward: for what cannot be pickled, the sampler stays in ComfyUI and only model calls go to the ranks."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import torch

from ..config import Degrees, ParallelConfig
from ..outer_sample import call_outer_sample
from ..protocol import Discard, Finished, Forward
from ..transport.packing import unpack
from ..transport.pickling import CannotTravel, dumps
from ..transport.returned import apply_changes
from .changes import Changes
from .describe import GraphDescribers
from .errors import RequestRefused
from .group import ProcessGroup
from .request import Request, collect, prepare

# Ran on the host already, around the call that is sent.
HOST_OPTIONS = ("wrappers", "callbacks", "multigpu_thread_pool")


def sample_here(
    executor,
    arguments: dict[str, Any],
    callback: Callable | None,
    disable_pbar: bool,
    group: ProcessGroup,
    degrees: Degrees,
    config: ParallelConfig,
    changes: Changes,
) -> torch.Tensor:
    """Run the rest of the OUTER_SAMPLE chain in this process with the diffusion model's calls served by the ranks.

    Raises RequestRefused, naming the object, for what has to run inside the model call and cannot be sent.
    """
    patcher = executor.class_obj.model_patcher
    if patcher.hook_patches:
        raise RequestRefused(
            "this prompt has a hook LoRA and an object that cannot be sent to the ranks (see the line above); the two"
            " do not go together: remove one, or sample with a stock loader"
        )
    bare = _bare(patcher)
    changes = changes.inside_the_model(patcher, bare)
    try:
        request = prepare(group, "forward", bare, degrees, config, len(arguments["sigmas"]) - 1, changes)
    except CannotTravel as error:
        raise RequestRefused(
            f"{error}; it is needed inside the model call, so this prompt cannot be sampled"
        ) from error
    try:
        with _served(patcher, group, request, changes):
            return call_outer_sample(executor, {**arguments, "callback": callback, "disable_pbar": disable_pbar})
    finally:
        if not group.closed:
            group.send(Discard(request.number))


def _bare(patcher: Any) -> Any:
    """A clone with what belongs to the model itself: patches and objects of its weights, nothing of the sampling."""
    bare = patcher.clone()
    bare.model_options = {"transformer_options": {}}
    bare.wrappers, bare.callbacks, bare.attachments, bare.additional_models = {}, {}, {}, {}
    bare.object_patches = {
        name: value for name, value in patcher.object_patches.items() if name.startswith("diffusion_model.")
    }
    return bare


@contextlib.contextmanager
def _served(patcher: Any, group: ProcessGroup, request: Request, changes: Changes) -> Iterator[None]:
    """While it lasts, the diffusion model computes in the ranks. `_forward` is replaced where there is one: wrappers
    stay here.
    """
    model, device = patcher.model.diffusion_model, patcher.load_device
    name = "_forward" if hasattr(type(model), "_forward") else "forward"
    signature = inspect.signature(getattr(type(model), name))
    graph = GraphDescribers([patcher], changes)
    notes = SimpleNamespace(seen=set())

    def remote(*args, **kwargs):
        comfy.model_management.throw_exception_if_processing_interrupted()
        bound = _bind(signature, model, args, kwargs)
        bound["transformer_options"] = {
            key: value for key, value in (bound.get("transformer_options") or {}).items() if key not in HOST_OPTIONS
        }
        finished, numbered = _call(group, request, bound, graph)
        if any(message.cancelled for message in finished):
            comfy.model_management.interrupt_current_processing(False)
            raise comfy.model_management.InterruptProcessingException()
        for note in finished[0].notes:
            if note not in notes.seen:
                notes.seen.add(note)
                logging.info("xDiT: %s", note)
        apply_changes(finished[0].changes, numbered, device)
        return unpack(finished[0].result, device)

    setattr(model, name, remote)
    try:
        yield
    finally:
        delattr(model, name)


def _bind(signature: inspect.Signature, model: torch.nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The call's arguments by name, as the model's forward takes them."""
    bound = signature.bind(model, *args, **kwargs).arguments
    bound.pop(next(iter(signature.parameters)))
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound.update(bound.pop(parameter.name, {}))
    return dict(bound)


def _call(
    group: ProcessGroup, request: Request, bound: dict[str, Any], graph: GraphDescribers
) -> tuple[list[Finished], list[Any]]:
    """How every rank ended this call, and the objects that went with it, as the ranks number them."""
    batch = group.blobs.batch(call=True)
    try:
        stream = dumps(((), bound), batch, graph.describers())
    except CannotTravel as error:
        raise RequestRefused(
            f"{error}; it is needed inside the model call, so this prompt cannot be sampled"
        ) from error
    group.send(Forward(request.number, stream.data, group.send_blobs(batch)))
    return collect(group, request, lambda rank, message: None), stream.numbered
