"""The weights of one model in one rank: views of the file until needed, then on the device; no private host copy."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from ...loading.parameter_source import stored_parameters
from ...sharding.foreign.model_watch import watch
from .flat_block import Unit
from .placement import REPLICATED, Held, Placement
from .sharded_blocks import DividedBlocks


class Weights:
    """Owns where the parameters of `model.diffusion_model` lie.

    Released: parameters are views of the mmapped file. Resident: what `placement` gives this rank is on `device` in the
    model's dtype; parameters that it does not hold, or only a cut of, are stand-ins of the same shape with nothing but
    NaN. `patched` names those that LoRA and the like changed. `nbytes`: what lies on the device, also while it is being
    read; `wanted`: what will, once resident. `read`: bytes of it that came from the file; `to_read`: that will have
    come. `blocks`: those that are divided, while resident. `title` is for the log. `between` is called before each
    parameter or block is read; what it raises ends that.
    """

    def __init__(self, model: Any, device: torch.device, title: str):
        self._model = model
        self.title = title
        self._device = device
        self._stored = stored_parameters(model)
        self.blocks: DividedBlocks | None = None
        self.resident = False
        self.nbytes = 0
        self.read = 0
        self.between: Callable[[], None] = nothing
        self.patched: set[str] = set()
        self._outdated: set[str] = set()
        self._calls = contextlib.ExitStack()
        self._parts: Callable[[], None] = nothing
        self.placement = REPLICATED
        self.place(REPLICATED)

    def place(self, placement: Placement) -> None:
        """What `materialise` puts on the device from now on. Only while released: see RankModelPatcher.place."""
        assert not self.resident or placement == self.placement
        self.placement = placement
        self._held = {name: placement.held(name) for name in self._stored}
        self.wanted = sum(one.nbytes for name, one in self._stored.items() if self._held[name] is Held.WHOLE)
        self.to_read = self.wanted
        if placement.divided:
            units = self._units()
            largest, shares = max(unit.size for unit in units), sum(unit.share for unit in units)
            self.wanted += 2 * largest + (0 if placement.offload else shares)
            self.to_read += shares

    @property
    def divided(self) -> bool:
        """Whether blocks are put together from several ranks while they run."""
        return bool(self.placement.divided)

    @property
    def _divided_blocks(self) -> DividedBlocks:
        """`blocks`, for what is done with them while the weights are resident."""
        assert self.blocks is not None, "no blocks are divided here, or they are released"
        return self.blocks

    def held(self, name: str) -> Held:
        """What this rank holds of a parameter; of what is no parameter of the diffusion model, all."""
        return self._held.get(name, Held.WHOLE)

    def materialise(self) -> None:
        """Put what this rank holds on the device, one tensor at a time.

        Raises torch.OutOfMemoryError, or what `between` raises, with everything released.
        """
        if self.resident:
            return
        logging.info("reading the weights of %s", self.title)
        try:
            self._read()
        except BaseException:
            self.release()
            raise
        self.resident = True

    def _read(self) -> None:
        for name, one in self._stored.items():
            self.between()
            if self._held[name] is Held.WHOLE:
                one.show(one.on(self._device))
                self.nbytes += one.nbytes
                self.read += one.nbytes
            elif self._held[name] is Held.ABSENT:
                one.show(one.stand_in(self._device))
        if self.divided:
            whole = self.nbytes
            self.blocks = DividedBlocks(self._units(), self._device, self.placement.offload)
            for share in self.blocks.read():
                self.nbytes = whole + self.blocks.nbytes
                self.read += share
                self.between()

    def _units(self) -> list[Unit]:
        place, model = self.placement, self._model.diffusion_model
        found = []
        for path in place.divided:
            inside = [one for name, one in self._stored.items() if name.startswith(f"diffusion_model.{path}.")]
            held = [one for one in inside if self._held[one.name] is Held.CUT]
            if held:
                found.append(Unit(model.get_submodule(path), held, place.index, place.count))
        return found

    def hide(self) -> None:
        """Stand-ins again for what is not whole here, after ComfyUI moved the model to the device."""
        for name, one in self._stored.items():
            if self._held[name] is Held.ABSENT:
                one.show(one.stand_in(self._device))
        if self.blocks is not None:
            self.blocks.hide()

    def release(self) -> None:
        """Give the device memory back; the file's pages stay in the page cache."""
        if self.blocks is not None:
            self.blocks.release()
            self.blocks = None
        for one in self._stored.values():
            one.show(one.source)
        self.resident = False
        self.nbytes = 0
        self.read = 0
        self.patched.clear()
        self._outdated.clear()

    # Patches

    def knows(self, name: str) -> bool:
        """Whether this is a parameter of the diffusion model."""
        return name in self._stored

    def source(self, name: str, held: torch.Tensor) -> torch.Tensor:
        """A parameter of the diffusion model as it is in the file; `held` for what is none."""
        return self._stored[name].source if name in self._stored else held

    def owns(self, name: str) -> bool:
        """Whether a patch of this parameter concerns this rank."""
        held = self.held(name)
        return held is Held.WHOLE or held is Held.CUT and self._divided_blocks.owns(name)

    @contextlib.contextmanager
    def as_in_file(self, name: str) -> Iterator[None]:
        """The parameter is whole on the device while this lasts, as in the file unless it is patched."""
        if self.held(name) is Held.WHOLE:
            if name in self._outdated:
                self._restore(name)
            yield
            return
        one = self._stored[name]
        one.show(one.on(self._device))
        try:
            yield
        finally:
            one.show(one.stand_in(self._device))

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """A patched whole parameter takes its place, as far as this rank holds it. Raises LayoutChanged."""
        if self.held(name) is Held.CUT:
            self._divided_blocks.write(name, tensor)
        else:
            self._stored[name].show(tensor)
        self._outdated.discard(name)
        self.patched.add(name)

    def unpatch(self) -> None:
        """Patches count no more; `restore`, or another patch of the same parameter, takes them out."""
        self._outdated |= self.patched
        self.patched.clear()

    def restore(self) -> None:
        """The parameters whose patches were undone come from the file again."""
        for name in sorted(self._outdated):
            self._restore(name)

    def _restore(self, name: str) -> None:
        if self.held(name) is Held.CUT:
            self._divided_blocks.restore(name)
        else:
            self._stored[name].show(self._stored[name].on(self._device))
        self._outdated.discard(name)

    # Running

    def start(self, group: dist.ProcessGroup | None) -> None:
        """The model runs from now on, on all ranks of `group`, over which its blocks are divided."""
        if self.blocks is not None:
            assert group is not None, "a rank that takes no part holds no blocks"
            self.blocks.start(group)
            model = self._model.diffusion_model
            self._calls.callback(model.register_forward_pre_hook(self._before_call).remove)
            self._calls.callback(model.register_forward_hook(self._after_call, always_call=True).remove)

    def stop(self) -> None:
        self._calls.close()
        if self.blocks is not None:
            self.blocks.stop()

    def _before_call(self, model: torch.nn.Module, _) -> None:
        if watch(model).found:
            self._parts = self._divided_blocks.open_parts()

    def _after_call(self, *_) -> None:
        parts, self._parts = self._parts, nothing
        parts()


def nothing() -> None:
    """What is done where nobody wants more."""
