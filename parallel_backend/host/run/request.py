"""A request on its way: pickled, its new blobs sent, prepared and echoed by every rank, then started."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import comfy.model_management

from ...contract.commands import Discard, Go, Prepare
from ...contract.config import Degrees, ParallelConfig
from ...contract.payload import Carried
from ...contract.reports import Finished, Prepared, Rejected
from ...sharding.plans import plans_of_packs
from ...transport.blobs import BlobBatch
from ...transport.pickling import CannotTravel, dumps
from ..base.errors import OutOfMemory, RequestRefused
from ..base.events import StepsStarted, WeightsRead
from ..describe.changes import Changes
from ..describe.description import GraphDescribers, patchers_of
from ..describe.replaced_by_packs import WHAT_TO_DO, Replacements
from ..group.process_group import ProcessGroup
from ..group.replies import Answers
from ..group.shortage import shortage
from .reading_display import LoadingBar, what_was_read


@dataclass(frozen=True)
class Request:
    """A prepared request that was told to go. `numbered`: its objects, as the ranks number them."""

    number: int
    numbered: list[Any]


def prepare(
    group: ProcessGroup, kind: str, payload: Any, degrees: Degrees, config: ParallelConfig, steps: int, changes: Changes
) -> Request:
    """Send `payload`; when every rank read it and holds the model that it names, start it. `steps`: of the sampler;
    `changes`: what it meets in ComfyUI's process.

    Raises CannotTravel when something cannot be pickled here or rebuilt there, RequestRefused when a model cannot be
    loaded, OutOfMemory, GroupError when a rank is lost, InterruptProcessingException when cancelled meanwhile.
    """
    batch = group.blobs.batch(between=comfy.model_management.throw_exception_if_processing_interrupted)
    prepared = _send(group, kind, payload, degrees, config, batch, changes)
    number, answers = prepared.number, prepared.answers
    loading = LoadingBar(answers, number, steps, lambda share: group.events.emit(WeightsRead(share)))
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
    group.phase("sampling")
    group.send(Go(number))
    group.events.emit(StepsStarted())
    return Request(number, prepared.numbered)


@dataclass(frozen=True)
class Preparing:
    """A request on its way to be prepared. `echo`: what its MODELs are; `began`: time.monotonic() when it was sent;
    `numbered`: its objects.
    """

    number: int
    answers: Answers
    echo: list[tuple[str, str]]
    began: float
    numbered: list[Any]

    def check(self) -> None:
        """Once every rank answered. Raises as `prepare` does."""
        _check(self.answers.group, self.answers, self.echo)


def prepare_weights(group: ProcessGroup, patcher: Any, degrees: Degrees, config: ParallelConfig) -> Preparing:
    """Have every rank read the weights of a MODEL, and nothing else. What ends this is `Discard`, and `Cancel` before
    it ends the reading.

    Raises CannotTravel, FilesChanged, GroupError.
    """
    batch, held = group.blobs.batch(call=True), group.held_modules
    return _send(group, "preload", patcher, degrees, config, batch, None, held)


def _send(
    group: ProcessGroup,
    kind: str,
    payload: Any,
    degrees: Degrees,
    config: ParallelConfig,
    batch: BlobBatch,
    changes: Changes | None,
    keep: Collection[bytes] = (),
) -> Preparing:
    """`changes`: None where nothing runs; `keep`: modules that the ranks hold, and that are kept beside those of
    `payload`.
    """
    graph = GraphDescribers(patchers_of(payload), changes)
    carried = Carried(payload)
    if changes is not None:
        carried = Carried(payload, changes.replacements.entries(), changes.replacements.settings())
    try:
        stream = dumps(carried, batch, graph.describers())
    except CannotTravel as error:
        if changes is not None:
            _blame_replacements(changes.replacements, batch, graph, kind)
        raise error
    number = group.next_request()
    group.phase("loading the model")
    try:
        forget = group.send_blobs(batch)
    except BaseException:
        group.phase("idle")
        raise
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
            stream.parameters,
            plans_of_packs(),
        )  # fmt: skip
    )
    return Preparing(number, Answers(group, number), graph.echo, time.monotonic(), stream.numbered)


def _blame_replacements(replacements: Replacements, batch: BlobBatch, graph: GraphDescribers, kind: str) -> None:
    """After a request could not be pickled: if it was what took the place of a function of ComfyUI, say so.

    Raises CannotTravel where the sampler can stay in ComfyUI, as that function does; RequestRefused where it cannot.
    """
    for one in replacements.found:
        try:
            dumps((one.value, replacements.settings_of(one)), batch, graph.describers())
        except CannotTravel as error:
            text = (
                f"{one.pack} replaced {one.title} in ComfyUI's process, and that cannot be sent to the ranks: {error}"
            )
            if kind != "sample":
                raise RequestRefused(f"{text}. It runs inside the model call: {WHAT_TO_DO}") from error
            raise CannotTravel(text) from error


def _check(group: ProcessGroup, answers: Answers, echo: list[tuple[str, str]]) -> None:
    """Every rank must have read the same request and hold the same weights as the host named."""
    rejected = [message for message in answers.ends.values() if isinstance(message, Rejected)]
    if rejected:
        first = min(rejected, key=lambda message: message.error.at)
        logging.debug("xDiT: rank %s:\n%s", first.rank, first.error.traceback)
        where = group.name(first.rank)
        if first.error.out_of_memory:
            raise OutOfMemory(shortage(f"{where} while loading", first.error.reason, group.memory()), group_lives=True)
        if first.stage == "follow":
            raise RequestRefused(first.error.reason.partition(": ")[2])
        text = f"{where}: {first.error.reason}"
        if first.stage == "read":
            raise CannotTravel(f"the request cannot be rebuilt in {text}")
        raise RequestRefused(f"the model cannot be loaded in {text}")
    echoes = [sorted(message.echo) if isinstance(message, Prepared) else [] for message in answers.ends.values()]
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
    ends = (answers.ends[rank] for rank in sorted(answers.ends))
    return [end for end in ends if isinstance(end, Finished)]
