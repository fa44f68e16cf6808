"""A request on its way: pickled, its new blobs sent, prepared and echoed by every rank, then started."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import comfy.model_management

from ..config import Degrees, ParallelConfig
from ..protocol import Discard, Finished, Go, Prepare, Rejected
from ..transport.blobs import BlobBatch
from ..transport.pickling import CannotTravel, dumps
from .answers import Answers
from .describe import GraphDescribers
from .errors import OutOfMemory, RequestRefused
from .events import StepsStarted, emit
from .group import ProcessGroup
from .loading import LoadingBar, what_was_read
from .memory import shortage


@dataclass(frozen=True)
class Request:
    """A prepared request that was told to go."""

    number: int


def prepare(
    group: ProcessGroup, kind: str, payload: Any, degrees: Degrees, config: ParallelConfig, steps: int
) -> Request:
    """Send `payload`; when every rank read it and holds the model that it names, start it. `steps`: of the sampler.

    Raises CannotTravel when something cannot be pickled here or rebuilt there, RequestRefused when a model cannot be
    loaded, OutOfMemory, GroupError when a rank is lost, InterruptProcessingException when cancelled meanwhile.
    """
    batch = group.blobs.batch(between=comfy.model_management.throw_exception_if_processing_interrupted)
    prepared = _send(group, kind, payload, degrees, config, batch)
    number, answers = prepared.number, prepared.answers
    loading = LoadingBar(answers, number, steps)
    try:
        answers.wait(loading.look)
        prepared.check()
        loading.end()
        if read := what_was_read(answers, prepared.began):
            logging.info("xDiT: read %s", read)
        comfy.model_management.throw_exception_if_processing_interrupted()
    except BaseException:
        if not group.closed:
            group.send(Discard(number))
        raise
    group.held.loaded({key for key, _ in prepared.echo})
    group.send(Go(number))
    emit(StepsStarted())
    return Request(number)


@dataclass(frozen=True)
class Preparing:
    """A request on its way to be prepared. `echo`: what its MODELs are; `began`: time.monotonic() when it was sent."""

    number: int
    answers: Answers
    echo: list[tuple[str, str]]
    began: float

    def check(self) -> None:
        """Once every rank answered. Raises as `prepare` does."""
        _check(self.answers.group, self.answers, self.echo)


def prepare_weights(group: ProcessGroup, patcher: Any, degrees: Degrees, config: ParallelConfig) -> Preparing:
    """Have every rank read the weights of a MODEL, and nothing else. What ends this is `Discard`, and `Cancel` before
    it ends the reading.

    Raises CannotTravel, FilesChanged, GroupError.
    """
    return _send(group, "preload", patcher, degrees, config, group.blobs.batch(call=True), group.held_modules)


def _send(
    group: ProcessGroup,
    kind: str,
    payload: Any,
    degrees: Degrees,
    config: ParallelConfig,
    batch: BlobBatch,
    keep: Collection[bytes] = (),
) -> Preparing:
    """`keep`: modules that the ranks hold, and that are kept beside those of `payload`."""
    graph = GraphDescribers()
    stream = dumps(payload, batch, graph.describers())
    number = group.next_request()
    group.phase("loading the model")
    forget = group.send_blobs(batch)
    new_modules = {key: data for key, data in stream.modules.items() if key not in group.held_modules}
    group.held_modules = {*stream.modules, *keep}
    group.send(
        Prepare(
            number,
            kind,
            stream.data,
            new_modules,
            stream.packs,
            degrees,
            config.attention,
            config.compile == "on",
            forget,
            list(group.held_modules),
            config.weights,
            config.patches,
            config.warmup_steps,
        )  # fmt: skip
    )
    return Preparing(number, Answers(group, number), graph.echo, time.monotonic())


def _check(group: ProcessGroup, answers: Answers, echo: list[tuple[str, str]]) -> None:
    """Every rank must have read the same request and hold the same weights as the host named."""
    rejected = [message for message in answers.ends.values() if isinstance(message, Rejected)]
    if rejected:
        first = min(rejected, key=lambda message: message.error.at)
        logging.debug("xDiT: rank %s:\n%s", first.rank, first.error.traceback)
        where = group.name(first.rank)
        if first.error.out_of_memory:
            raise OutOfMemory(shortage(f"{where} while loading", first.error.reason, group), group_lives=True)
        text = f"{where}: {first.error.reason}"
        if first.stage == "read":
            raise CannotTravel(f"the request cannot be rebuilt in {text}")
        raise RequestRefused(f"the model cannot be loaded in {text}")
    echoes = [sorted(message.echo) for message in answers.ends.values()]
    if any(other != echoes[0] for other in echoes) or [entry[:2] for entry in echoes[0]] != sorted(echo):
        raise RequestRefused(f"the ranks do not hold the model that this prompt names: {echoes} for {echo}")


def collect(group: ProcessGroup, request: Request, on_message: Callable[[int, Any], None]) -> list[Finished]:
    """Wait until every rank finished, handing other messages to `on_message`. Returns the ends in rank order.

    Raises RequestRefused when the ranks failed in step (the group goes on), GroupError when not, OutOfMemory.
    """
    answers = Answers(group, request.number, on_message)
    group.phase("sampling")
    answers.wait()
    answers.raise_failure()
    group.phase("idle")
    return [answers.ends[rank] for rank in sorted(answers.ends)]
