"""What the ranks hold, in ComfyUI's list of loaded models: an entry for each device, unloaded as any other.

"Unload models", POST /free and a text encoder or VAE that needs room reach the ranks this way. ComfyUI never loads an
entry: the next prompt does.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.model_management import LoadedModel, current_loaded_models

from .devices import DeviceSet
from .errors import GroupError, OutOfMemory, RequestRefused
from .group import ProcessGroup
from .manager import InUse, manager
from .release import RELEASE_SECONDS, free


class XDiTRanks(torch.nn.Module):
    """Stands for a model where ComfyUI names one in its log."""


class DevicePatcher(comfy.model_patcher.ModelPatcher):
    """What the ranks of `group` on one device hold there, in bytes; nothing once the group is gone."""

    def __init__(self, group: ProcessGroup, device: torch.device, ranks: tuple[int, ...]):
        self._group = group
        self._ranks = ranks
        super().__init__(XDiTRanks(), device, torch.device("cpu"))

    def model_size(self):
        return self.loaded_size()

    def loaded_size(self):
        if not self._group.alive():
            return 0
        return sum(self._group.held.resident(rank) for rank in self._ranks)

    def _cached(self) -> int:
        return sum(self._group.held.cached(rank) for rank in self._ranks)

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        return 0

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
        """The caches, if they are enough."""
        cached = self._cached()
        if cached < memory_to_free:
            return 0
        return cached if self._free(caches_only=True) else 0

    def detach(self, unpatch_all=True):
        if unpatch_all and self._group.alive():
            self._free(caches_only=False)
        return self.model

    def _free(self, caches_only: bool) -> bool:
        """Whether it was done. What goes wrong is the group's end, which frees the memory too, so ComfyUI goes on."""
        if manager.in_use:
            return False
        leftover = self._group.leftover
        if leftover is not None and not leftover.done.is_set():
            threading.Thread(target=self._free_after, args=(leftover.done,), name="xdit-free", daemon=True).start()
            return False
        try:
            with manager.idle(RELEASE_SECONDS):
                free(self._group, self._ranks, caches_only)
        except InUse:
            return False
        except (GroupError, RequestRefused, OutOfMemory) as error:
            logging.error("xDiT: freeing memory of %s: %s", self._names(), error)
            return False
        what = "unused memory" if caches_only else "weights"
        logging.info("xDiT: %s on %s dropped: ComfyUI wants the memory", what, self._names())
        return True

    def _names(self) -> str:
        return ", ".join(self._group.devices.name(rank) for rank in self._ranks)

    def _free_after(self, done: threading.Event) -> None:
        """Once the ranks are through with what a cancelled prompt began, unless the next prompt has them by then."""
        done.wait()
        self._free(caches_only=False)


class Registered:
    """The entries of the present group. ComfyUI's list is its prompt worker's, so use this in that thread only."""

    def __init__(self):
        self._entries: list[tuple[LoadedModel, DevicePatcher]] = []  # an entry does not keep its patcher alive

    @contextlib.contextmanager
    def withdrawn(self) -> Iterator[None]:
        """Around a prompt's use of the group: ComfyUI cannot unload it meanwhile. After it, what is held is shown."""
        for entry, _ in self._entries:
            if entry in current_loaded_models:
                current_loaded_models.remove(entry)
                entry.model_finalizer.detach()
        self._entries.clear()
        try:
            yield
        finally:
            group = manager.start.group if manager.start is not None else None
            if group is not None and group.alive():
                self._show(group)

    def _show(self, group: ProcessGroup) -> None:
        group.held.measured(group.ask(stacks=False))
        for device, ranks in ranks_by_device(group.devices).items():
            patcher = DevicePatcher(group, device, ranks)
            if not patcher.loaded_size() and group.leftover is None:
                continue
            entry = LoadedModel(patcher)
            entry.model_load()
            current_loaded_models.insert(0, entry)
            self._entries.append((entry, patcher))


def ranks_by_device(devices: DeviceSet) -> dict[torch.device, tuple[int, ...]]:
    """The ranks on each of ComfyUI's devices; all CPU ranks are on one."""
    if devices.kind == "cpu":
        return {torch.device("cpu"): tuple(range(devices.size))}
    return {torch.device("cuda", index): (rank,) for rank, index in enumerate(devices.indices)}


registered = Registered()
