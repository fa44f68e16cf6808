"""The doctor's command line."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator

import comfy.cli_args
import torch

# ComfyUI's device management looks for a GPU as soon as it is imported.
comfy.cli_args.args.cpu = not torch.cuda.is_available()

import folder_paths  # noqa: E402

from ..contract.config import ConfigError  # noqa: E402
from ..host.base.devices import DeviceSet  # noqa: E402
from ..host.base.events import Events  # noqa: E402
from ..host.base.limits import Limits  # noqa: E402
from ..host.group.process_group import ProcessGroup  # noqa: E402
from ..host.launch.rank_launch import Launcher  # noqa: E402
from .examine import examine  # noqa: E402
from .text import as_text  # noqa: E402

HEALTHY, PROBLEMS, USAGE_ERROR = 0, 1, 2


def main(arguments: list[str]) -> int:
    """0: no problem found, 1: problems found, 2: the devices that were asked for do not exist."""
    parser = argparse.ArgumentParser(
        prog="doctor",
        description="Reports what this machine has for xDiT for ComfyUI, what does not fit, and what to use.",
    )
    parser.add_argument(
        "--devices", default="auto", help="auto (every GPU), GPU numbers such as 0,1, or CPU ranks such as cpu:2"
    )
    parser.add_argument("--no-measure", action="store_true", help="start no ranks: links and kernels are not tried")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    sys.argv[1:] = []  # ranks are started with this process's flags, as ComfyUI's
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is the report's
            report = examine(options.devices, None if options.no_measure else _own_group)
    except ConfigError as error:
        print(f"doctor: {error}", file=sys.stderr)
        return USAGE_ERROR
    print(json.dumps(report.as_dict(), indent=2) if options.json else as_text(report))
    return PROBLEMS if report.problems else HEALTHY


@contextlib.contextmanager
def _own_group(devices: DeviceSet) -> Iterator[ProcessGroup]:
    """A process group for the doctor alone. Its logs do not take the place of those of a running ComfyUI."""
    with tempfile.TemporaryDirectory(prefix="xdit-doctor-") as logs:
        folder_paths.set_user_directory(logs)
        with contextlib.closing(ProcessGroup(devices, Limits.from_environment(), Launcher(), Events())) as group:
            group.wait_until_ready()
            yield group
