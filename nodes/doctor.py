"""xDiT Doctor: what this machine has, what does not fit, and what to use, as text in the graph."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

from comfy_api.latest import io, ui

from ..parallel_backend.contract.config import ConfigError
from ..parallel_backend.doctor.examine import examine
from ..parallel_backend.doctor.text import as_text
from ..parallel_backend.host.base.devices import DeviceSet, resolve
from ..parallel_backend.host.group.process_group import ProcessGroup
from .config import CATEGORY
from .owner import owner

FORMATS = ("text", "json")


class XDiTDoctor(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XDiTDoctor",
            display_name="xDiT Doctor",
            category=CATEGORY,
            description="Reports versions, GPUs, links, attention kernels and problems, and which way of dividing the"
            " work makes sense on this machine.",
            search_aliases=["xdit", "multi gpu", "diagnose", "nccl", "benchmark"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "devices",
                    default="auto",
                    tooltip="auto: every GPU. Or ComfyUI's device numbers: 0,1. Or CPU ranks: cpu:2.",
                ),
                io.Boolean.Input(
                    "measure",
                    default=True,
                    tooltip="Start the ranks, measure the links between them and try the attention kernels. Takes less"
                    " than a minute; the links are kept for strategy auto.",
                ),
                io.Combo.Input("format", options=list(FORMATS), tooltip="text for people, json for programs."),
            ],
            outputs=[io.String.Output(display_name="report")],
        )

    @classmethod
    def validate_inputs(cls, devices) -> bool | str:
        try:
            resolve(devices)
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs) -> float:
        return time.time()  # the machine may have changed since

    @classmethod
    def execute(cls, devices, measure, format) -> io.NodeOutput:
        report = examine(devices, _group if measure else None)
        text = as_text(report) if format == "text" else json.dumps(report.as_dict(), indent=2)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


@contextlib.contextmanager
def _group(devices: DeviceSet) -> Iterator[ProcessGroup]:
    with owner.manager.used():
        yield owner.manager.group(devices, may_leave_out=False)
