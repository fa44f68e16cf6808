"""Ranks that sample together: rank 0 leads.

Every rank runs the sampler, which may decide by anything: the clock, a generator of its own, floats of unlike GPUs. So
before each call of the model rank 0 tells the others that it calls, and with what; they call with the same. A rank that
wants no call, or another one, serves that of rank 0 until they meet again; one that wants a call when rank 0's sampler
is done leaves its own. Only rank 0's latent counts.

Agreed are calls at three levels, each where it is not inside another one: guided calls, which samplers make; lists of
conditions (calc_cond_batch); and calls of the diffusion model itself. Inside one nothing is agreed, since there groups
of ranks do different things.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import comfy.model_management
import comfy.samplers
import torch
import torch.distributed as dist

from ...sharding.exchange.memory_order import as_contiguous, dense, laid_out_as
from ...sharding.foreign.own_options import InOptions
from ...sharding.pipeline.schedule import Schedule
from .announcements import Announcements
from .call_inputs import put_together, take_apart

GUIDED, CONDITIONS, MODEL = "guided call", "conditions", "model call"
START, CANCELLED, WAITS, CHANGED, SAMPLED, RAN = "start", "cancelled", "waits", "changed", "sampled", "ran"
ENDS = (SAMPLED, RAN)
OPTIONS = "transformer_options"


class ModelCalls:
    """The calls of one diffusion model: `agree` sees the arguments of each and may give others, while it is set.

    Its hook is there for good: one that came and went would have the model looked through for code of nodes.
    """

    def __init__(self, diffusion_model: torch.nn.Module):
        self.agree: Callable[[tuple, dict[str, Any]], tuple[tuple, dict] | None] | None = None
        diffusion_model.register_forward_pre_hook(self._before, prepend=True, with_kwargs=True)

    def _before(self, model, args, kwargs):
        return self.agree(args, kwargs) if self.agree is not None else None


class CancelSignal(Protocol):
    """Whether the host cancelled the request. That it is asked counts as progress."""

    def is_set(self) -> bool: ...


class LeaderDone(BaseException):
    """Rank 0 calls the model no more, so this rank's sampler ends here. No `except Exception` of a sampler stops it."""


class Agreement(InOptions):
    """`group`: the ranks of the request, None for a single one. `guider`: whose run it is; `models`: those of
    ComfyUI (BaseModel) that it may call; `schedule`: of PipeFusion, whose count of steps is rank 0's on every rank.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None,
        cancelled: CancelSignal,
        guider: Any = None,
        models: Sequence[Any] = (),
        schedule: Schedule | None = None,
    ):
        self._group = group
        self._cancelled = cancelled
        self._guider = guider
        self._models = list(models)
        self._schedule = schedule
        self._rank0 = Announcements(group) if group is not None else None
        self._inside = False
        self._over: str | None = None
        self._latent: Any = None
        self._can_serve = False
        self._options: tuple[dict[str, Any], Any] = ({}, None)
        self._conditions: tuple[list, dict[str, Any]] = ([], {})  # of the last call, as are the others
        self._arguments: dict[int, dict[str, Any]] = {}

    @property
    def _leader(self) -> Announcements:
        """How rank 0 tells the others what it does."""
        assert self._rank0 is not None, "a single rank has nobody to agree with"
        return self._rank0

    def stop_if_cancelled(self) -> None:
        """Raises ComfyUI's InterruptProcessingException on every rank or on none."""
        if self._rank0 is None:
            self._stop(self._cancelled.is_set())
        else:
            self._agree(START, None)

    def wait(self) -> None:
        """On rank 0: tell the others, which wait for its next call, that it goes on later."""
        self._cancelled.is_set()
        if self._rank0 is not None and not self._inside:
            self._tell(WAITS, None)

    def change(self, attributes: dict[str, Any]) -> None:
        """On rank 0: the guider gets these attributes, on every rank before its next call."""
        if attributes:
            vars(self._guider).update(attributes)
            if self._rank0 is not None and not self._inside:
                self._tell(CHANGED, attributes)

    # A run and its sampler

    def run(self, run: Callable[[], Any]) -> Any:
        """What `run` gives on rank 0, where every rank runs it; elsewhere any value."""
        return run() if self._rank0 is None else self._to_the_end(RAN, run)

    def sampler(self, executor, guider, sigmas, extra_args, *others, **more) -> torch.Tensor:
        """A SAMPLER_SAMPLE wrapper: every rank's sampler ends with rank 0's, and with its latent."""

        def run() -> torch.Tensor:
            return executor(guider, sigmas, extra_args, *others, **more)

        if self._rank0 is None or self._can_serve:
            return run()
        self._guider = guider
        self._conditions, self._arguments = ([], extra_args.get("model_options", guider.model_options)), {}
        self._options = (extra_args.get("model_options", guider.model_options), extra_args.get("seed"))
        self._can_serve = True
        try:
            return self._to_the_end(SAMPLED, run)
        finally:
            self._can_serve = False
            self._conditions, self._arguments = ([], {}), {}  # they hold tensors

    def _to_the_end(self, end: str, run: Callable[[], Any]) -> Any:
        result = None
        try:
            result = run()
        except BaseException:
            if self._over is None:
                raise
        if self._leader.leads:
            self._tell(end, result if end == SAMPLED else None)
            return result
        if self._over is None:
            return self._follow(end, result)
        if self._over != end:
            raise LeaderDone
        self._over, latent, self._latent = None, self._latent, None
        return latent

    # Calls

    def guided(self, executor, x, timestep, model_options, seed) -> torch.Tensor:
        """A PREDICT_NOISE wrapper: rank 0's x and timestep go in, and its result comes out on every rank."""
        if self._inside:
            return executor(x, timestep, model_options, seed)
        if self._rank0 is None:
            self.stop_if_cancelled()
            return executor(x, timestep, model_options, seed)
        self._options = (model_options, seed)
        x, timestep = self._agree(GUIDED, (x, timestep))
        return self._guided(x, lambda: executor(x, timestep, model_options, seed))

    def _guided(self, x: torch.Tensor, call: Callable[[], torch.Tensor]) -> torch.Tensor:
        with self._within():
            result = laid_out_as(call(), x)
        dist.broadcast(as_contiguous(result), 0, group=self._group)
        return result

    def conditions(self, executor, model, conds, x_in, timestep, model_options) -> list[torch.Tensor]:
        """A CALC_COND_BATCH wrapper, around those that divide the call."""
        if self._inside or self._rank0 is None:
            return executor(model, conds, x_in, timestep, model_options)
        self._conditions = (conds, model_options)
        number = next((number for number, known in enumerate(self._models) if known is model), 0)
        x_in, timestep = self._agree(CONDITIONS, (x_in, timestep), [number, *self._names(conds)])
        with self._within():
            return executor(model, conds, x_in, timestep, model_options)

    def _names(self, conds: list) -> list[str | None]:
        """Which of the guider's conditions these are; None for one that is left out, "" for any other."""
        known = {id(cond): name for name, cond in getattr(self._guider, "conds", {}).items()}
        return [None if cond is None else known.get(id(cond), "") for cond in conds]

    @contextlib.contextmanager
    def around_models(self) -> Iterator[None]:
        """Calls of the diffusion models are agreed while the context lasts."""
        if self._rank0 is None:
            yield
            return
        for number, model in enumerate(self._models):
            model.xdit_calls.agree = functools.partial(self._agree_on_model_call, number)
        try:
            yield
        finally:
            for model in self._models:
                model.xdit_calls.agree = None

    def _agree_on_model_call(self, number: int, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        if self._inside:
            return None
        own = {"args": args, "kwargs": kwargs}
        self._arguments[number] = own
        agreed = self._agree(MODEL, own, number)
        return agreed["args"], agreed["kwargs"]

    # Leading and following

    def _agree(self, call: str, own: Any, which: Any = None) -> Any:
        """Rank 0's inputs of this call; `own` are this rank's. `which`, in JSON's types: of the calls of this kind."""
        if not self._leader.leads:
            return self._follow(call, own, which)
        if self._cancelled.is_set():
            self._tell(CANCELLED, None)
            self._stop(True)
        return self._tell(call, own, which)

    def _tell(self, what: str, value: Any, which: Any = None) -> Any:
        """`value`, its tensors dense as the others get them: a CUDA graph is kept for strides, too."""
        tensors: list[torch.Tensor] = []
        skeleton = take_apart(value, tensors)
        done = self._schedule.done if self._schedule is not None else 0
        sent = [dense(tensor) for tensor in tensors]
        self._leader.tell((what, which, done, skeleton), sent)
        if all(one is other for one, other in zip(sent, tensors, strict=True)):
            return value
        return put_together(skeleton, sent, value, in_place=True)

    def _follow(self, wanted: str, own: Any, which: Any = None) -> Any:
        """Rank 0's inputs of the wanted call, or its value at the wanted end, after all that it does before."""
        if self._over is not None:
            raise LeaderDone
        while True:
            self._cancelled.is_set()  # its answer is rank 0's; asked here it counts as progress
            (what, told, done, skeleton), tensors = self._leader.hear()
            if self._schedule is not None:
                self._schedule.done = done
            self._stop(what == CANCELLED)
            if (what, told) == (wanted, which):
                return put_together(skeleton, tensors, own, in_place=True)
            if what in ENDS:
                self._over, self._latent = what, put_together(skeleton, tensors, None)
                raise LeaderDone
            if what == CHANGED:
                vars(self._guider).update(put_together(skeleton, tensors, None))
            elif what != WAITS:
                self._serve(what, told, skeleton, tensors)

    def _serve(self, what: str, which: Any, skeleton: Any, tensors: list[torch.Tensor]) -> None:
        """This rank's part in a call of rank 0, whose result this rank has no use for."""
        if not self._can_serve:
            raise RuntimeError(f"rank 0 makes a {what} outside the sampler, which this rank does not make")
        if what == GUIDED:
            x, timestep = put_together(skeleton, tensors, None)
            self._guided(x, lambda: self._guider.outer_predict_noise(x, timestep, *self._options))
        elif what == CONDITIONS:
            self._serve_conditions(which, *put_together(skeleton, tensors, None))
        else:
            own = self._arguments.get(which, {"kwargs": {OPTIONS: self._options[0].get(OPTIONS, {})}})
            arguments = put_together(skeleton, tensors, own)
            with self._within():
                self._models[which].diffusion_model(*arguments["args"], **arguments["kwargs"])

    def _serve_conditions(self, which: list, x_in: torch.Tensor, timestep: torch.Tensor) -> None:
        model, names = self._models[which[0]], which[1:]
        own, model_options = self._conditions
        if "" in names and len(own) != len(names):
            raise RuntimeError("rank 0 evaluates conditions that this rank's sampler never reached")
        chosen = [
            self._guider.conds[name] if name else None if name is None else own[place]
            for place, name in enumerate(names)
        ]
        with self._within():
            comfy.samplers._calc_cond_batch_outer(model, chosen, x_in, timestep, model_options)

    @contextlib.contextmanager
    def _within(self) -> Iterator[None]:
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    def _stop(self, cancelled: bool) -> None:
        if cancelled:
            raise comfy.model_management.InterruptProcessingException()
