"""The one process group of this ComfyUI: started when first needed, kept, replaced only when the devices change."""

from __future__ import annotations

import atexit
import logging
import sys
import threading

from comfy_execution.utils import get_executing_context

from ..config import ConfigError
from .devices import DeviceSet
from .group import GroupError, ProcessGroup
from .launch import Timeouts


class GroupManager:
    def __init__(self):
        self._lock = threading.RLock()
        self._group: ProcessGroup | None = None
        self._prompt: tuple[str, DeviceSet] | None = None
        atexit.register(self.close)

    def group(self, devices: DeviceSet) -> ProcessGroup:
        """A ready group on `devices`. Raises ConfigError when this prompt already uses others, GroupError when it
        cannot start.
        """
        require_linux()
        self._one_device_set_per_prompt(devices)
        with self._lock:
            if self._group is not None and (self._group.devices != devices or not self._group.alive()):
                self._group.close()
                self._group = None
            if self._group is None:
                self._group = ProcessGroup(devices, Timeouts.from_environment())
            return self._group

    def warm_up(self, devices: DeviceSet) -> None:
        """Start a group in the background, so that it is ready when the sampler needs it."""
        require_linux()
        self._one_device_set_per_prompt(devices)

        def start():
            try:
                with self._lock:
                    if self._group is None or self._group.devices == devices:
                        self.group(devices)
            except GroupError as error:
                logging.warning("xDiT: %s", error)  # the sampler tries again, and then the prompt ends with the reason

        threading.Thread(target=start, name="xdit-warm-up", daemon=True).start()

    def _one_device_set_per_prompt(self, devices: DeviceSet) -> None:
        context = get_executing_context()
        if context is None:
            return
        if self._prompt is not None and self._prompt[0] == context.prompt_id and self._prompt[1] != devices:
            raise ConfigError(
                f"this workflow asks for two sets of devices, {self._prompt[1]} and {devices}; one workflow runs on one"
                " set: connect the same Parallel Config to every xDiT node"
            )
        self._prompt = (context.prompt_id, devices)

    def close(self) -> None:
        with self._lock:
            if self._group is not None:
                self._group.close()
                self._group = None


def require_linux() -> None:
    if not sys.platform.startswith("linux"):
        raise ConfigError(
            "xDiT for ComfyUI runs on Linux (WSL2 included); here its nodes are registered but cannot sample"
        )


manager = GroupManager()
