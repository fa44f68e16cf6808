"""Remote forward: for what cannot be pickled, the sampler stays in ComfyUI and only model calls go to the ranks."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import torch

from ...comfyui.outer_sample import call_outer_sample
from ...contract.commands import Discard, Forward
from ...contract.config import Degrees, ParallelConfig
from ...contract.reports import Finished
from ...sharding.plan.modules import replaced
from ...transport.packing import unpack_output
from ...transport.pickling import CannotTravel, dumps
from ...transport.returned import apply_changes
from ..base.errors import RequestRefused
from ..describe.changes import Changes
from ..describe.description import GraphDescribers
from ..group.process_group import ProcessGroup
from .request import Request, collect, prepare

# Ran on the host already, around the call that is sent.
HOST_OPTIONS = ("wrappers", "callbacks", "multigpu_thread_pool")
# What ComfyUI calls of a diffusion model beside its forward, and what needs weights.
METHODS = ("preprocess_text_embeds",)


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
            group.phase("idle")
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


@dataclass
class _Calls:
    """Where the model calls of a run go. `device`: where what they give belongs; `said`: notes, each once."""

    group: ProcessGroup
    request: Request
    graph: GraphDescribers
    device: torch.device
    said: set[str] = field(default_factory=set)


@contextlib.contextmanager
def _served(patcher: Any, group: ProcessGroup, request: Request, changes: Changes) -> Iterator[None]:
    """While it lasts, the diffusion model computes in the ranks. `_forward` is replaced where there is one: wrappers
    stay here.
    """
    model = patcher.model.diffusion_model
    forward = "_forward" if hasattr(type(model), "_forward") else "forward"
    methods = [name for name in METHODS if hasattr(type(model), name)]
    calls = _Calls(group, request, GraphDescribers([patcher], changes), patcher.load_device)
    with contextlib.ExitStack() as served:
        for name in (forward, *methods):
            method = "" if name == forward else name
            remote = functools.partial(_remote, model, name, method, calls)
            served.enter_context(replaced(model, name, remote))
        yield


def _remote(model: torch.nn.Module, name: str, method: str, calls: _Calls, /, *args, **kwargs):
    """A call of the model, or of its `method`, by a rank of each group; what it gives."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    bound = _bind(inspect.signature(getattr(type(model), name)), model, args, kwargs)
    if not method:
        bound["transformer_options"] = {
            key: value for key, value in (bound.get("transformer_options") or {}).items() if key not in HOST_OPTIONS
        }
    finished, numbered = _call(calls, method, bound)
    if any(message.cancelled for message in finished):
        comfy.model_management.interrupt_current_processing(False)
        raise comfy.model_management.InterruptProcessingException()
    for note in finished[0].notes:
        if note not in calls.said:
            calls.said.add(note)
            logging.info("xDiT: %s", note)
    apply_changes(finished[0].changes, numbered, calls.device)
    return unpack_output(finished[0].result, calls.device)


def _bind(signature: inspect.Signature, model: torch.nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The call's arguments by name, as the model's forward takes them."""
    bound = signature.bind(model, *args, **kwargs).arguments
    bound.pop(next(iter(signature.parameters)))
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound.update(bound.pop(parameter.name, {}))
    return dict(bound)


def _call(calls: _Calls, method: str, bound: dict[str, Any]) -> tuple[list[Finished], list[Any]]:
    """How every rank ended this call, and the objects that went with it, as the ranks number them."""
    group, request = calls.group, calls.request
    batch = group.blobs.batch(call=True)
    try:
        stream = dumps(((), bound), batch, calls.graph.describers())
    except CannotTravel as error:
        raise RequestRefused(
            f"{error}; it is needed inside the model call, so this prompt cannot be sampled"
        ) from error
    group.send(Forward(request.number, method, stream.data, stream.packs, group.send_blobs(batch)))
    return collect(group, request, lambda rank, message: None), stream.numbered
