"""One examination, from the devices that were asked for to the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from ..contract.config import ConfigError, parse_devices
from ..host.base.devices import DeviceSet, require_linux, resolve, visible_gpus
from ..host.base.errors import GroupError
from ..host.group.process_group import ProcessGroup
from ..host.strategy.link_speed import Links, keep_links, measured_links
from .advice import advice
from .border import border_problems
from .machine import examine_machine
from .report import Problem, Report
from .trials import enter_kernels, enter_links, run_probe, untried_kernels
from .versions import misfits, versions

GroupFor = Callable[[DeviceSet], AbstractContextManager[ProcessGroup]]


def examine(text: str, group_for: GroupFor | None) -> Report:
    """Examine the devices that `text` names (see parse_devices); on a machine without GPUs "auto" names none.

    `group_for` gives a ready process group on them; without it nothing is run. A rank that fails becomes a problem in
    the report. Raises ConfigError for devices that do not exist.
    """
    devices = None if parse_devices(text)[0] == "auto" and not visible_gpus() else resolve(text)
    report = Report(str(devices) if devices else "no GPU", versions=versions())
    report.problems += misfits(report.versions)
    report.problems += border_problems()
    examine_machine(report, devices)
    links = measured_links(devices) if devices else None
    if devices is not None and group_for is not None:
        links = _measure(report, devices, group_for) or links
    if not report.measured:
        report.kernels = untried_kernels()
    report.advice = advice(devices, report, links)
    return report


def _measure(report: Report, devices: DeviceSet, group_for: GroupFor) -> Links | None:
    started = time.monotonic()
    try:
        require_linux()
    except ConfigError as error:
        report.problems.append(Problem(str(error), "on Windows use WSL2, elsewhere a machine with Linux"))
        return None
    try:
        with group_for(devices) as group:
            answers = run_probe(group)
    except GroupError as error:
        report.problems.append(
            Problem(
                f"the ranks failed. {error}",
                "fix what the last lines name. If they name NCCL, or a rank did not answer: set NCCL_P2P_DISABLE=1 in"
                " ComfyUI's environment and run the doctor again",
            )
        )
        return None
    report.measured, report.seconds = True, time.monotonic() - started
    enter_kernels(report, answers)
    links = enter_links(report, devices.indices, answers)
    if links is not None:
        try:
            report.kept = str(keep_links(devices, links))
        except OSError as error:
            report.problems.append(
                Problem(f"the measurement cannot be kept for auto: {error}", "set XDIT_CACHE to a writable folder")
            )
    return links
