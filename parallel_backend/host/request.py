"""A request on its way: pickled, its new blobs sent, prepared and echoed by every rank, then started."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management

from ..config import Degrees, ParallelConfig
from ..protocol import Cancel, Discard, Failed, Finished, Go, Prepare, Prepared, Rejected
from ..transport.pickling import CannotTravel, dumps
from .describe import GraphDescribers
from .events import StepsStarted, emit
from .group import GroupError, ProcessGroup

FAILURE_GRACE_SECONDS = 5.0


class RequestRefused(RuntimeError):
    """The ranks refused a request before it started; the group is healthy."""


@dataclass(frozen=True)
class Request:
    """A prepared request that was told to go; `ranks` is how many ranks there are."""

    number: int
    ranks: int


def prepare(group: ProcessGroup, kind: str, payload: Any, degrees: Degrees, config: ParallelConfig) -> Request:
    """Send `payload`; when every rank read it and holds the model that it names, start it.

    Raises CannotTravel when something cannot be pickled here or rebuilt there, RequestRefused when a model cannot be
    loaded, GroupError when a rank is lost, InterruptProcessingException when cancelled meanwhile.
    """
    graph = GraphDescribers()
    batch = group.blobs.batch()
    stream = dumps(payload, batch, graph.describers())
    number = group.next_request()
    forget = group.send_blobs(batch)
    new_modules = {key: data for key, data in stream.modules.items() if key not in group.held_modules}
    group.held_modules = set(stream.modules)
    group.send(
        Prepare(
            number,
            kind,
            stream.data,
            new_modules,
            stream.imports,
            degrees,
            config.attention,
            forget,
            list(stream.modules),
        )  # fmt: skip
    )
    answers = _answers(group, number)
    _check(group, number, answers, graph.echo)
    group.resident = {key for key, _ in graph.echo}
    group.send(Go(number))
    emit(StepsStarted())
    return Request(number, group.size)


def _answers(group: ProcessGroup, number: int) -> dict[int, Prepared | Rejected]:
    interrupted = comfy.model_management.processing_interrupted
    answers: dict[int, Prepared | Rejected] = {}
    for rank, message in group.events(interrupted, number):
        answers[rank] = message
        if len(answers) == group.size:
            return answers
    raise AssertionError("events end only by raising")


def _check(group: ProcessGroup, number: int, answers: dict[int, Any], echo: list[tuple[str, str]]) -> None:
    """Every rank must have read the same request and hold the same weights as the host named."""
    rejected = [message for message in answers.values() if isinstance(message, Rejected)]
    if rejected:
        group.send(Discard(number))
        first = min(rejected, key=lambda message: message.rank)
        logging.debug("xDiT: rank %s:\n%s", first.rank, first.traceback)
        text = f"rank {first.rank} ({group.device(first.rank)}): {first.reason}"
        if first.stage == "read":
            raise CannotTravel(f"the request cannot be rebuilt in {text}")
        raise RequestRefused(f"the model cannot be loaded in {text}")
    echoes = [sorted(message.echo) for message in answers.values()]
    if any(other != echoes[0] for other in echoes) or [entry[:2] for entry in echoes[0]] != sorted(echo):
        group.send(Discard(number))
        raise RequestRefused(f"the ranks do not hold the model that this prompt names: {echoes} for {echo}")
    if comfy.model_management.processing_interrupted():
        group.send(Discard(number))
        comfy.model_management.throw_exception_if_processing_interrupted()


def collect(group: ProcessGroup, request: Request, on_message: Callable[[int, Any], None]) -> list[Finished]:
    """Wait until every rank finished, handing other messages to `on_message`. Returns the ends in rank order.

    Raises RequestRefused when every rank raised the same (the group goes on), GroupError when they are out of step.
    """
    finished: dict[int, Finished] = {}
    failed: dict[int, Failed] = {}
    for rank, message in group.events(comfy.model_management.processing_interrupted, request.number):
        if isinstance(message, Finished):
            finished[rank] = message
        elif isinstance(message, Failed):
            failed[rank] = message
        else:
            _hand_on(group, request, on_message, rank, message)
        if failed:
            _end_failed(group, request, failed, finished)
        if len(finished) == request.ranks:
            return [finished[rank] for rank in sorted(finished)]
    raise AssertionError("events end only by raising")


def _hand_on(group: ProcessGroup, request: Request, on_message: Callable, rank: int, message: Any) -> None:
    """ComfyUI's progress bar raises when Cancel was pressed: then the ranks have to stop too, not only this process."""
    try:
        on_message(rank, message)
    except BaseException:
        group.send(Cancel(request.number))
        raise


def _end_failed(
    group: ProcessGroup, request: Request, failed: dict[int, Failed], finished: dict[int, Finished]
) -> None:
    """One rank raised: give the others a moment to raise the same, which leaves the group in step."""
    first = next(iter(failed.values()))
    for rank, message in group.events_for(FAILURE_GRACE_SECONDS, request.number):
        if isinstance(message, Failed):
            failed[rank] = message
        elif isinstance(message, Finished):
            finished[rank] = message
        if len(failed) + len(finished) == request.ranks:
            break
    where = f"rank {first.rank} ({group.device(first.rank)})"
    active = request.ranks - len(finished)
    same = len(failed) == active and len({message.reason for message in failed.values()}) == 1
    if same:
        raise RequestRefused(f"sampling failed on {where}: {first.reason}\n{first.traceback}")
    group.close()
    raise GroupError(
        f"sampling failed on {where} while the other ranks went on; the process group is replaced on the next prompt."
        f" {first.reason}\n{first.traceback}"
    )
