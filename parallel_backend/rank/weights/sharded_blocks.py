"""The blocks of a model whose weights are divided over ranks: each is made whole just before it runs.

Why not torch's FSDP2, whose idea this is: it divides each parameter along its rows, so ComfyUI's quantised tensors
(data and scales in layouts of their own) would have to be taken apart; it wants its own parameters, where ComfyUI's
patcher puts plain ones; its unsharded parameters are not made for inference mode; and it starts from whole tensors,
where a rank here reads only its own bytes of the file. A cut of bytes knows of none of this: the same bytes come back.

Each block is a unit. Its whole is gathered into one of two buffers of the largest block's size: the one in use, and the
next one's, which is gathered while this one computes. The next one is the one that followed last time. A guess that was
wrong is completed and dropped.

Every rank of the group has to gather the same units in the same order. Those that share a sequence do, as they run the
same blocks; others are brought to it by lock_step.py.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from ...loading.parameter_source import Stored, as_parameter
from .flat_block import Unit


class Slot:
    """One buffer, and the unit that it holds or is about to hold."""

    def __init__(self, size: int, device: torch.device):
        self.buffer = torch.empty(size, dtype=torch.uint8, device=device)
        self.unit: Unit | None = None
        self.work: dist.Work | None = None
        self._views: dict[Unit, list[tuple[Stored, torch.nn.Parameter]]] = {}

    def wait(self) -> None:
        work, self.work = self.work, None
        if work is not None:
            work.wait()

    def show(self) -> None:
        """The modules of the unit see its parameters here."""
        unit = self.unit
        assert unit is not None, "no unit was gathered into this buffer"
        if unit not in self._views:
            self._views[unit] = unit.views(self.buffer)
        for one, tensor in self._views[unit]:
            one.show(tensor)


class DividedBlocks:
    """`units` in the order in which they are expected to run. `offload`: the cuts rest in host memory, pinned for CUDA.

    Between `start` and `stop` blocks can run; else their parameters are stand-ins. `wait_for(unit)`, if set, is called
    before a unit is gathered for its block. Raises torch.OutOfMemoryError.
    """

    def __init__(self, units: list[Unit], device: torch.device, offload: bool):
        self._device = device
        self._unit_of = {one.name: (unit, one) for unit in units for one in unit.stored}
        self._stand_ins = {unit: [(one, as_parameter(one.stand_in(device))) for one in unit.stored] for unit in units}
        self._host_memory = HostMemory(device) if offload else None
        self._cuts: dict[Unit, torch.Tensor] = {}
        self.units = units
        self.wait_for: Callable[[Unit], None] | None = None
        self._slots: list[Slot] = []
        self._current: Slot | None = None
        self._follows: dict[Unit, Unit] = {}
        self._before: Unit | None = None
        self._group: dist.ProcessGroup | None = None
        self._inside: Unit | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._hooks = [hook for unit in units for hook in self._hook(unit)]

    @property
    def nbytes(self) -> int:
        """Bytes on the device: cuts, unless they rest in host memory, and buffers."""
        cuts = 0 if self._host_memory is not None else sum(cut.nbytes for cut in self._cuts.values())
        return cuts + sum(slot.buffer.nbytes for slot in self._slots)

    def _largest(self) -> int:
        return max(unit.size for unit in self.units)

    def read(self) -> Iterator[int]:
        """This rank's cuts from the file; yields after the buffers, and after each block, how many bytes were read."""
        self._slots = [Slot(self._largest(), self._device) for _ in range(2)]
        yield 0
        for unit in self.units:
            cut = self._empty_cut(unit)
            for one in unit.stored:
                unit.read(cut, one, self._device)
            self._cuts[unit] = cut
            yield unit.share
        self.hide()

    def _empty_cut(self, unit: Unit) -> torch.Tensor:
        if self._host_memory is not None:
            return self._host_memory.take(unit.share)
        return torch.empty(unit.share, dtype=torch.uint8, device=self._device)

    def hide(self) -> None:
        """Stand-ins in the place of every parameter."""
        for unit in self.units:
            self._leave(unit)

    def release(self) -> None:
        """Give all memory back. Nothing can be done with this object afterwards."""
        for hook in self._hooks:
            hook.remove()
        if self._stream is not None:
            self._stream.synchronize()
        self._slots.clear()
        self._cuts.clear()
        if self._host_memory is not None:
            self._host_memory.release()

    # Patches

    def owns(self, name: str) -> bool:
        """Whether this rank holds any byte of a parameter."""
        unit, one = self._unit_of[name]
        return unit.owns(one)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """This rank's bytes of a whole parameter take the place of those that it holds. Raises LayoutChanged."""
        unit, one = self._unit_of[name]
        unit.write(self._cuts[unit], one, tensor)

    def restore(self, name: str) -> None:
        """This rank's bytes of a parameter as they are in the file."""
        unit, one = self._unit_of[name]
        unit.read(self._cuts[unit], one, self._device)

    # Gathering

    def start(self, group: dist.ProcessGroup) -> None:
        """Blocks run from now on, on every rank of `group`, each of which holds one cut of every unit.

        The order is learned anew: ranks that read their weights at different times must guess the same.
        """
        self._group = group
        self._follows = dict(zip(self.units, self.units[1:] + self.units[:1], strict=True))

    def stop(self) -> None:
        """What was gathered ahead is completed, as on every rank of the group, and forgotten."""
        for slot in self._slots:
            slot.wait()
            slot.unit = None
        self._current = self._before = self._group = None
        self.hide()

    def _hook(self, unit: Unit):
        yield unit.module.register_forward_pre_hook(lambda module, args: self._enter(unit), prepend=True)
        yield unit.module.register_forward_hook(lambda module, args, output: self._leave(unit))

    def _enter(self, unit: Unit) -> None:
        assert self._group is not None, "a divided block ran outside of a request"
        if self.wait_for is not None:
            self.wait_for(unit)
        self.gather(unit).show()
        self._inside = unit

    def open_parts(self) -> Callable[[], None]:
        """From now on what lies inside a block can be called outside of it, too: the block is whole meanwhile. What it
        gives ends that. For model calls with a node's code in them: step caches ask a block's first layers only.
        """
        hooks = [hook for unit in self.units for hook in self._hook_parts(unit)]

        def close() -> None:
            for hook in hooks:
                hook.remove()

        return close

    def _hook_parts(self, unit: Unit):
        called: list[torch.nn.Module] = []

        def enter(module: torch.nn.Module, _) -> None:
            if not torch.compiler.is_compiling() and self._inside is not unit:
                called.append(module)
                self._enter(unit)

        def leave(module: torch.nn.Module, *_) -> None:
            if not torch.compiler.is_compiling() and called and called[-1] is module:
                called.pop()
                self._leave(unit)

        for module in unit.module.modules():
            if module is not unit.module:
                yield module.register_forward_pre_hook(enter, prepend=True)
                yield module.register_forward_hook(leave, always_call=True)

    def gather(self, unit: Unit) -> Slot:
        """The whole of `unit`; the next one is on its way. Every rank of the group calls this for the same units."""
        slot = next((slot for slot in self._slots if slot.unit is unit), None)
        if slot is None:
            slot = self._beside_current()
            self._fetch(unit, slot)
        slot.wait()
        self._current = slot
        if self._before is not None:
            self._follows[self._before] = unit
        self._before, following, other = unit, self._follows[unit], self._beside_current()
        if following not in (unit, other.unit):
            self._fetch(following, other)
        return slot

    def _leave(self, unit: Unit) -> None:
        if self._inside is unit:
            self._inside = None
        for one, nothing in self._stand_ins[unit]:
            one.show(nothing)

    def _beside_current(self) -> Slot:
        """The buffer that no block uses now."""
        return self._slots[1] if self._current is self._slots[0] else self._slots[0]

    def _fetch(self, unit: Unit, slot: Slot) -> None:
        """Start gathering `unit`. The buffer is free once what was computed so far is done."""
        slot.wait()
        slot.unit = unit
        whole, cut = slot.buffer[: unit.size], self._cuts[unit]
        with self._beside():
            if self._host_memory is not None:
                whole[unit.own].copy_(cut, non_blocking=True)
                cut = whole[unit.own]
            slot.work = dist.all_gather_into_tensor(whole, cut, group=self._group, async_op=True)

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        """On a GPU, beside what is computed from now on."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield


class HostMemory:
    """Host memory for cuts, page-locked where the device is a GPU, so that copies run beside kernels."""

    def __init__(self, device: torch.device):
        self._lock = device.type == "cuda"
        self._locked: list[torch.Tensor] = []

    def take(self, size: int) -> torch.Tensor:
        """uint8 [size]. torch's own pinned allocator would round it up to a power of two."""
        memory = torch.empty(size, dtype=torch.uint8)
        if self._lock:
            if torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), size, 1) == 0:
                self._locked.append(memory)
            else:
                logging.warning("host memory cannot be page-locked here (see ulimit -l): offloaded weights are slower")
                self._lock = False
        return memory

    def release(self) -> None:
        for memory in self._locked:
            torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())
        self._locked.clear()
