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

from ..base.devices import ranks_by_device
from ..base.errors import GroupError, OutOfMemory, RequestRefused
from ..group.manager import GroupManager, InUse
from ..group.process_group import ProcessGroup
from ..group.release import RELEASE_SECONDS, free
from ..group.start import GroupStart
from .preload import Preloads


class XDiTRanks(torch.nn.Module):
    """Stands for a model where ComfyUI names one in its log."""


class DevicePatcher(comfy.model_patcher.ModelPatcher):
    """What the ranks of a group on one device hold there, in bytes: nothing before it is ready and once it is gone."""

    def __init__(self, start: GroupStart, device: torch.device, manager: GroupManager, preloads: Preloads):
        self.start = start
        self._manager = manager
        self._preloads = preloads
        super().__init__(XDiTRanks(), device, torch.device("cpu"))

    @property
    def _group(self) -> ProcessGroup | None:
        group = self.start.group
        return group if group is not None and group.alive() else None

    def _ranks(self, group: ProcessGroup) -> tuple[int, ...]:
        return ranks_by_device(group.devices).get(self.load_device, ())

    def model_size(self):
        return self.loaded_size()

    def loaded_size(self):
        if (group := self._group) is None:
            return 0
        return sum(group.held.resident(rank) for rank in self._ranks(group))

    def _cached(self) -> int:
        if (group := self._group) is None:
            return 0
        return sum(group.held.cached(rank) for rank in self._ranks(group))

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        return 0

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
        """The caches, if they are enough."""
        cached = self._cached()
        if cached < memory_to_free:
            return 0
        return cached if self._free(caches_only=True) else 0

    def detach(self, unpatch_all=True):
        if unpatch_all:
            self._free(caches_only=False)
        return self.model

    def _free(self, caches_only: bool) -> bool:
        """Whether it was done. What goes wrong is the group's end, which frees the memory too, so ComfyUI goes on."""
        if self._manager.in_use:
            return False
        self._preloads.drop()
        if (group := self._group) is None:
            return False
        leftover = group.leftover
        if leftover is not None and not leftover.done.is_set():
            threading.Thread(target=self._free_after, args=(leftover.done,), name="xdit-free", daemon=True).start()
            return False
        try:
            with self._manager.idle(RELEASE_SECONDS):
                free(group, self._ranks(group), caches_only)
        except InUse:
            return False
        except (GroupError, RequestRefused, OutOfMemory) as error:
            logging.error("xDiT: freeing memory of %s: %s", self.load_device, error)
            return False
        what = "unused memory" if caches_only else "weights"
        names = ", ".join(group.devices.name(rank) for rank in self._ranks(group))
        logging.info("xDiT: %s on %s dropped: ComfyUI wants the memory", what, names)
        return True

    def _free_after(self, done: threading.Event) -> None:
        """Once the ranks are through with what a cancelled prompt began, unless the next prompt has them by then."""
        done.wait()
        self._free(caches_only=False)


class LoadedModels:
    """The entries of the present group. ComfyUI's list is its prompt worker's, so use this in that thread only."""

    def __init__(self, manager: GroupManager, preloads: Preloads):
        self._manager = manager
        self._preloads = preloads
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
            start = self._manager.start
            if start is not None and start.group is not None and start.group.alive():
                start.group.held.measured(start.group.ask(stacks=False))
                for device in ranks_by_device(start.group.devices):
                    patcher = self._patcher(start, device)
                    if patcher.loaded_size() or start.group.leftover is not None or self._preloads.any():
                        self._show(patcher)

    def expect(self, start: GroupStart) -> None:
        """The ranks of this group, which may not be ready yet, are about to hold something."""
        listed = [patcher for entry, patcher in self._entries if entry in current_loaded_models]
        for device in ranks_by_device(start.devices):
            if not any(patcher.start is start and patcher.load_device == device for patcher in listed):
                self._show(self._patcher(start, device))

    def _patcher(self, start: GroupStart, device: torch.device) -> DevicePatcher:
        return DevicePatcher(start, device, self._manager, self._preloads)

    def _show(self, patcher: DevicePatcher) -> None:
        entry = LoadedModel(patcher)
        entry.model_load()
        current_loaded_models.insert(0, entry)
        self._entries.append((entry, patcher))
