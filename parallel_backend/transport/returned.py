"""What a run changed in the objects of a request, on its way back to ComfyUI's own objects.

In ComfyUI a sampler may leave its state in its options, and a patch may collect something for a later node: in a
variable of its closure, an attribute, a list. The run was given copies in a rank. So the rank remembers what they held
before the run and sends what they hold now where that differs. Pickle numbered the objects alike on both sides; a dict,
list or set, which it does not show, is known by its place in a walk through the object that holds it.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import torch

from .pack_globals import PackGlobals
from .packing import pack, unpack

CONTAINERS = (dict, list, set)
VALUES = (type(None), bool, int, float, complex, str, bytes)
# ComfyUI's own objects begin anew with each run, but for what a sampler is given as options.
OWN_MODULES = ("comfy", "torch")
WITH_OPTIONS = frozenset({"comfy.samplers.KSAMPLER"})
# What ComfyUI itself sets in a guider for a run, and takes away or replaces after it.
OF_A_RUN = frozenset({"conds", "inner_model", "loaded_models", "model_options", "model_patcher"})

Place = tuple[int, int]  # the number of an object, the place of a container in the walk through it


def keeps_state(obj: Any) -> bool:
    """Whether something that this object holds may be wanted after the run."""
    if isinstance(obj, types.CellType | types.FunctionType | PackGlobals):
        return True
    if isinstance(obj, type | types.ModuleType | torch.Tensor | torch.nn.Module) or not hasattr(obj, "__dict__"):
        return False
    module, name = type(obj).__module__, type(obj).__qualname__
    own = module.partition(".")[0] in OWN_MODULES or module.startswith(__name__.partition(".transport")[0])
    return not own or f"{module}.{name}" in WITH_OPTIONS


def contents(obj: Any) -> dict[str, Any]:
    """What an object that keeps state holds, by name."""
    if isinstance(obj, types.CellType):
        try:
            return {"cell": obj.cell_contents}
        except ValueError:
            return {}
    if isinstance(obj, PackGlobals):
        return obj.held()
    return {name: value for name, value in vars(obj).items() if name not in OF_A_RUN}


def set_contents(obj: Any, held: dict[str, Any]) -> None:
    if isinstance(obj, types.CellType):
        if "cell" in held:
            obj.cell_contents = held["cell"]
        elif contents(obj):
            del obj.cell_contents
        return
    if isinstance(obj, PackGlobals):
        obj.hold({**obj.held(), **held})
        return
    for name in contents(obj).keys() - held.keys():
        del vars(obj)[name]
    vars(obj).update(held)


def containers(held: dict[str, Any]) -> list[Any]:
    """The dicts, lists and sets inside, each once, in the order in which they are come to."""
    found: dict[int, Any] = {}

    def walk(value: Any) -> None:
        if type(value) in CONTAINERS:
            if id(value) in found:
                return
            found[id(value)] = value
        for item in _items(value):
            walk(item)

    for value in held.values():
        walk(value)
    return list(found.values())


def _items(value: Any) -> Iterator[Any]:
    if type(value) is dict:
        yield from value.values()
    elif type(value) in (list, tuple):
        yield from value


class Received:
    """The objects of a request in a rank by the host's numbers, and what they held before the run."""

    def __init__(self):
        self._made: dict[int, Any] = {}
        self._before: dict[int, Any] = {}
        self._sizes: dict[int, int] = {}  # how many containers are inside an object
        self._versions: dict[int, int] = {}  # of tensors, by id
        self._places: dict[int, Place] = {}  # of containers, by id
        self._kept: list[Any] = []  # what the ids stand for

    def number(self, number: int, made: Any) -> None:
        self._made[number] = made

    def remember(self) -> None:
        """The run begins."""
        for made in self._made.values():
            if isinstance(made, torch.Tensor):
                self._versions[id(made)] = _version(made)
        for number, made in sorted(self._made.items()):
            if keeps_state(made):
                held = contents(made)
                inside = containers(held)
                self._sizes[number] = len(inside)
                for place, container in enumerate(inside):
                    self._places.setdefault(id(container), (number, place))
                self._before[number] = self._frozen_contents(held)

    def changes(self) -> tuple[bytes, list[str]]:
        """What the run changed, b"" for nothing, and of what cannot be sent back a line each."""
        now = {number: contents(self._made[number]) for number in self._before}
        changed = {number: held for number, held in now.items() if self._frozen_contents(held) != self._before[number]}
        if not changed:
            return b"", []
        try:
            return self._dump(changed), []
        except Exception as error:
            if len(changed) == 1:
                (number,) = changed
                return b"", [self._cannot(number, error)]
        lines = []
        for number, held in list(changed.items()):
            try:
                self._dump({number: held})
            except Exception as error:
                lines.append(self._cannot(number, error))
                del changed[number]
        return self._dump(changed) if changed else b"", lines

    def _cannot(self, number: int, error: Exception) -> str:
        made = self._made[number]
        owner = made if hasattr(made, "__qualname__") else type(made)
        name = f"{owner.__qualname__} of {owner.__module__}" if hasattr(owner, "__qualname__") else "a shared variable"
        return f"what {name} holds after the run cannot be sent back from the ranks: {error}"

    def _frozen_contents(self, held: dict[str, Any]) -> Any:
        return tuple((name, self._frozen(value)) for name, value in held.items())

    def _frozen(self, value: Any, inside: tuple[int, ...] = ()) -> Any:
        """Something that is equal as long as nothing in `value` was exchanged or changed in place."""
        if isinstance(value, VALUES):
            return type(value), value
        self._kept.append(value)
        if isinstance(value, torch.Tensor):
            return id(value), _version(value)
        if type(value) is set:
            return id(value), frozenset(self._frozen(item) for item in value)
        if id(value) in inside:
            return id(value)
        inside = (*inside, id(value))
        if type(value) is dict:
            return id(value), tuple((self._frozen(k), self._frozen(v, inside)) for k, v in value.items())
        if type(value) in (list, tuple):
            return id(value), tuple(self._frozen(item, inside) for item in value)
        if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
            return id(value), value.tobytes()
        return id(value)

    def _dump(self, changed: dict[int, dict[str, Any]]) -> bytes:
        buffer = io.BytesIO()
        numbers = {id(made): number for number, made in self._made.items()}
        boxed: dict[int, Box] = {}
        payload = {
            number: {name: self._box(value, boxed) for name, value in held.items()} for number, held in changed.items()
        }
        _ReturnPickler(buffer, numbers, self._versions).dump(payload)
        return buffer.getvalue()

    def _box(self, value: Any, boxed: dict[int, Box]) -> Any:
        if type(value) is tuple:
            return tuple(self._box(item, boxed) for item in value)
        if type(value) not in CONTAINERS:
            return value
        if id(value) not in boxed:
            place = self._places.get(id(value))
            size = self._sizes[place[0]] if place is not None else 0
            box = boxed[id(value)] = Box(type(value), place, size)
            if type(value) is dict:
                box.items = [(key, self._box(item, boxed)) for key, item in value.items()]
            else:
                box.items = [self._box(item, boxed) for item in value]
        return boxed[id(value)]


@dataclass
class Box:
    """A dict, list or set on its way; `place`: which of the host's it is, among so many (`of`); None for a new one."""

    kind: type
    place: Place | None
    of: int
    items: list[Any] = field(default_factory=list)


class _ReturnPickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, numbers: dict[int, int], versions: dict[int, int]):
        super().__init__(file)
        self._numbers = numbers
        self._versions = versions

    def reducer_override(self, obj):
        number = self._numbers.get(id(obj))
        if isinstance(obj, torch.Tensor):
            return self._tensor(obj, number)
        if number is not None:
            return _host_object, (number,)
        if isinstance(obj, torch.device):
            return _host_device, (obj.type,)
        if isinstance(obj, torch.nn.Module):
            raise TypeError(f"a {type(obj).__qualname__}, which is a module of the rank")
        return super().reducer_override(obj)

    def _tensor(self, obj: torch.Tensor, number: int | None):
        if number is None or obj.is_inference():
            return (_host_object, (number,)) if number is not None else (_new_tensor, (*_packed(obj),))
        if self._versions.get(id(obj)) == _version(obj):
            return _host_object, (number,)
        return _changed_tensor, (number, *_packed(obj))


def _packed(tensor: torch.Tensor) -> tuple[Any, bool]:
    return pack(tensor), tensor.device.type != "cpu"


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


@dataclass(frozen=True)
class _Host:
    """`numbered`: the request's objects as ComfyUI holds them; `device`: its accelerator."""

    numbered: list[Any]
    device: torch.device


_host: ContextVar[_Host] = ContextVar("xdit_host")


def apply_changes(changes: bytes, numbered: list[Any], device: torch.device) -> None:
    """Have ComfyUI's objects hold what `Received.changes` says.

    `device`: for tensors that lay on an accelerator.
    """
    if not changes:
        return
    token = _host.set(_Host(numbered, device))
    try:
        payload: dict[int, dict[str, Any]] = pickle.loads(changes)
    finally:
        _host.reset(token)
    own = _Containers(numbered)
    unboxed = {number: {name: own.unbox(value) for name, value in held.items()} for number, held in payload.items()}
    own.fill()
    for number, held in unboxed.items():
        if keeps_state(
            numbered[number]
        ):  # not what stands for something else in a rank, as this pack's own wrapper does
            set_contents(numbered[number], held)


class _Containers:
    """ComfyUI's dicts, lists and sets, looked up as they are before anything changes, then filled."""

    def __init__(self, numbered: list[Any]):
        self._numbered = numbered
        self._walked: dict[int, list[Any]] = {}
        self._made: dict[int, tuple[Box, Any]] = {}
        self._later: list[Callable[[], None]] = []

    def unbox(self, value: Any) -> Any:
        if type(value) is tuple:
            return tuple(self.unbox(item) for item in value)
        if not isinstance(value, Box):
            return value
        if id(value) not in self._made:
            target = self._own(value)
            self._made[id(value)] = (value, target)
            if value.kind is dict:
                items = [(key, self.unbox(item)) for key, item in value.items]
            else:
                items = [self.unbox(item) for item in value.items]
            self._later.append(lambda: _refill(target, items))
        return self._made[id(value)][1]

    def fill(self) -> None:
        for refill in self._later:
            refill()

    def _own(self, box: Box) -> Any:
        """A new container too where an object's way of being pickled does not keep the places of what it holds."""
        if box.place is None:
            return box.kind()
        number, index = box.place
        if number not in self._walked:
            self._walked[number] = containers(contents(self._numbered[number]))
        walked = self._walked[number]
        return walked[index] if len(walked) == box.of and type(walked[index]) is box.kind else box.kind()


def _refill(target: dict | list | set, items: list[Any]) -> None:
    target.clear()
    if isinstance(target, list):
        target.extend(items)
    else:
        target.update(items)


def _host_object(number: int) -> Any:
    return _host.get().numbered[number]


def _host_device(kind: str) -> torch.device:
    return torch.device(kind) if kind in ("cpu", "meta") else _host.get().device


def _new_tensor(packed: Any, accelerator: bool) -> torch.Tensor:
    return unpack(packed, _host.get().device if accelerator else "cpu")


def _changed_tensor(number: int, packed: Any, accelerator: bool) -> torch.Tensor:
    own = _host.get().numbered[number]
    return own.copy_(unpack(packed, own.device))
