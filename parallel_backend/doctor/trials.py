"""What only running ranks tell: the speed of the links, and which attention kernels work."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import replace

from comfy.model_management import throw_exception_if_processing_interrupted

from ..contract.attention_kernels import KERNELS
from ..contract.doctor_messages import Probe, Probed
from ..contract.reports import Failed
from ..host.base.errors import GroupError
from ..host.group.process_group import POLL_SECONDS, ProcessGroup
from ..host.strategy.link_speed import Link, Links, pair_of
from .report import AllToAll, Kernel, Problem, Report

LIMIT_SECONDS = 120.0
GRACE_SECONDS = 2.0


def run_probe(group: ProcessGroup, limit: float = LIMIT_SECONDS) -> list[Probed]:
    """Every rank's answer, in rank order. The group is closed when one fails.

    Raises GroupError with the first cause when a rank raises, ends, or does not answer within `limit` seconds. A rank
    that ended comes before one that raised: that one only lost its peer.
    """
    number = group.next_request()
    answers: dict[int, Probed] = {}
    failed: list[Failed] = []
    deadline = time.monotonic() + limit
    group.phase("being measured")
    try:
        group.send(Probe(number))
        while len(answers) < group.size:
            received = group.receive(POLL_SECONDS)
            message = received[1] if received is not None else None
            if isinstance(message, Probed):
                answers[message.rank] = message
            elif isinstance(message, Failed):
                failed.append(message)
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            throw_exception_if_processing_interrupted()
            if time.monotonic() > deadline:
                raise group.lose(lambda: _raised(group, failed[0]) if failed else _late(group, answers, limit))
    except BaseException:
        group.kill()
        raise
    group.phase("idle")
    return [answers[rank] for rank in sorted(answers)]


def _raised(group: ProcessGroup, failed: Failed) -> GroupError:
    return GroupError(f"{group.name(failed.rank)}: {failed.error.reason}\n{failed.error.traceback}", failed.rank)


def _late(group: ProcessGroup, answers: dict[int, Probed], limit: float) -> GroupError:
    silent = [rank for rank in range(group.size) if rank not in answers]
    names = ", ".join(group.name(rank) for rank in silent)
    return GroupError(f"{names} did not end the measurement within {limit:.0f} s", silent[0])


def enter_links(report: Report, indices: tuple[int, ...], answers: list[Probed]) -> Links | None:
    """Put the slower side's figures of each exchange into the report; None with one rank."""
    measured: dict[tuple[int, ...], Link] = {}
    for answer in answers:
        for found in answer.exchanges:
            before = measured.get(found.ranks)
            measured[found.ranks] = Link(
                min(found.bandwidth, before.bandwidth if before else found.bandwidth),
                max(found.latency, before.latency if before else 0.0),
            )
            if not found.intact:
                report.problems.append(_changed_data(indices, found.ranks, answer.rank))
    if not measured:
        return None
    together = measured[tuple(range(len(indices)))]
    report.all_to_all = AllToAll(indices, together.bandwidth, together.latency)
    pairs = {pair_of(*(indices[rank] for rank in ranks)): link for ranks, link in measured.items() if len(ranks) == 2}
    report.pairs = [
        replace(pair, bandwidth=pairs[pair.devices].bandwidth, latency=pairs[pair.devices].latency)
        for pair in report.pairs
    ]
    return Links(pairs, together)


def enter_kernels(report: Report, answers: list[Probed]) -> None:
    """A kernel works when it does on every rank; a fault that only some ranks have names the first of them."""
    for trials in zip(*(answer.kernels for answer in answers), strict=True):
        faults = {rank: trial.fault for rank, trial in enumerate(trials) if trial.fault}
        fault = next(iter(faults.values()), None)
        if 0 < len(faults) < len(trials):
            fault = f"rank {next(iter(faults))}: {fault}"
        report.kernels.append(Kernel(trials[0].name, fault is None, fault, KERNELS[trials[0].name].used))


def untried_kernels() -> list[Kernel]:
    """What is known of the kernels where no rank ran: the packages that are not installed."""
    missing = {
        kernel.name
        for kernel in KERNELS.values()
        if kernel.package and not any(map(importlib.util.find_spec, kernel.package))
    }
    return [
        Kernel(name, False, "not installed", kernel.used) if name in missing else Kernel(name, None, None, kernel.used)
        for name, kernel in KERNELS.items()
    ]


def _changed_data(indices: tuple[int, ...], ranks: tuple[int, ...], rank: int) -> Problem:
    others = ", ".join(str(indices[other]) for other in ranks if other != rank)
    return Problem(
        f"what devices {others} send to device {indices[rank]} arrives changed: pictures would be wrong",
        "set NCCL_P2P_DISABLE=1 in ComfyUI's environment; the lasting cure is turning IOMMU and ACS off in firmware",
    )
