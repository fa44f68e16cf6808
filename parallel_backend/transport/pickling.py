"""One pickle stream for a whole request: the graph's own objects, by reference where importable, by value where local.

Tensors go by content (blobs), devices are mapped to the reader's, a MODEL goes as its recipe and state, every other
patcher (ControlNet, VAE) as its module by content and state. What belongs to a MODEL's model (a submodule, a parameter,
a method bound to one) goes by its path and is the rank's own there. One stream, because hooks are compared by identity
and functions share their variables.

Objects that pickle builds by a call are numbered, so that what a run changes in them can come back (`returned`).
"""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import blake3
import cloudpickle
import torch

from ..system.printable_names import printable
from . import restore
from .blobs import INLINE_LIMIT, BlobBatch, tensor_bytes
from .pack_globals import PackGlobals
from .packs import in_order, pack_of

MODULE_LIMIT = 1024 * 1024
# Left behind by ComfyUI's loading of a module on the host; a rank loads the module itself.
HOST_MODULE_STATE = frozenset(
    "_v _v_signature _v_weight _v_bias _v_block _v_block_faulted _comfy_graph _comfy_cross_step_state"
    " _prefetch _pins _pin_state dynamic_vbars dynamic_pins dynamic_patchers current_patcher"
    " weight_lowvram_function bias_lowvram_function comfy_patched_weights".split()
)
HOST_MODULE_LISTS = frozenset(("weight_function", "bias_function"))


class CannotTravel(TypeError):
    """An object of the request cannot be pickled; the message names it and its module."""


@dataclass
class Describers:
    """How the host turns its special objects into recipes. Each returns None for an object that is not its business.

    patcher: a MODEL's identity and state. part: the identity and path of what belongs to a MODEL's model.
    module_patcher: the state of another patcher. node_class: of the class that ComfyUI makes of a node's class for one
    execution, the node's class and what it knows of this execution. is_seam: this pack's own wrapper. original: where
    the name of one of ComfyUI's functions or classes means another one now, (module, qualified name). is_disguised: a
    function that took such a place and goes by the name of the one that it replaced.
    """

    patcher: Callable[[Any], tuple[Any, dict[str, Any]] | None]
    part: Callable[[Any], tuple[Any, str] | None]
    module_patcher: Callable[[Any], dict[str, Any] | None]
    node_class: Callable[[type], tuple[type, dict[str, Any]] | None]
    is_seam: Callable[[Any], bool]
    original: Callable[[Any], tuple[str, str] | None] = lambda obj: None
    is_disguised: Callable[[Any], bool] = lambda obj: False


@dataclass
class Stream:
    """A pickled request: `data` refers to `modules` (payloads by key) and to blobs of the batch.

    `packs`: what has to be imported first, as by ComfyUI and in this order: name → file (see packs.py).
    `code_of`: modules of packs whose code is in it. `numbered`: the objects that the reader knows by the same numbers.
    `parameters`: parameters of a MODEL's model are part of it, which the reader has once the model is loaded.
    """

    data: bytes
    modules: dict[bytes, bytes] = field(default_factory=dict)
    packs: dict[str, str] = field(default_factory=dict)
    code_of: set[str] = field(default_factory=set)
    numbered: list[Any] = field(default_factory=list)
    parameters: bool = False


class RequestPickler(cloudpickle.Pickler):
    """`root`: a module that is pickled by itself, as a payload that requests refer to."""

    def __init__(self, file: io.BytesIO, batch: BlobBatch, describers: Describers, stream: Stream, root: Any = None):
        super().__init__(file)
        self._batch = batch
        self._describers = describers
        self._stream = stream
        self._root = root
        self._weights: set[int] = set()
        self.trail: list[Any] = []

    def reducer_override(self, obj):
        reduced = self._reduce(obj)
        if reduced is NotImplemented:
            reduced = self._reduce_as_pickle_does(obj)
        if not isinstance(reduced, tuple) or self._root is not None:
            return reduced
        self._stream.numbered.append(obj)
        make, arguments, *rest = reduced
        return restore.numbered, (len(self._stream.numbered) - 1, make, arguments), *rest

    def _reduce_as_pickle_does(self, obj):
        if isinstance(obj, type | types.FunctionType | types.BuiltinFunctionType):
            return NotImplemented  # by name
        reduce = self.dispatch_table.get(type(obj))
        return reduce(obj) if reduce is not None else obj.__reduce_ex__(self.proto)

    def _reduce(self, obj):
        if isinstance(obj, _Globals):
            return self._globals(obj)
        if (original := uncompiled(obj)) is not obj:
            return restore.same, (original,)
        if (part := self._describers.part(obj)) is not None:
            self._stream.parameters |= isinstance(obj, torch.Tensor)
            return restore.model_part, part
        if isinstance(obj, torch.Tensor):
            return self._tensor(obj)
        if isinstance(obj, torch.device):
            return restore.device, (obj.type,)
        self._note(obj)
        if isinstance(obj, types.FunctionType | type):
            original = self._describers.original(obj)
            if original is not None:
                return restore.original, original
            if self._describers.is_disguised(obj):
                return self._dynamic_function_reduce(obj)
        if (name := _name_by_path(obj)) is not None:
            return restore.named, name
        if isinstance(obj, types.CellType):
            return _reduce_cell(obj)
        if isinstance(obj, PackGlobals):
            return PackGlobals, (), obj.state(), None, None, PackGlobals.take_over
        if type(obj) is super:
            return _reduce_super(obj)
        if isinstance(obj, type) and (described := self._describers.node_class(obj)) is not None:
            return restore.node_class, described
        if self._describers.is_seam(obj):
            return _get_pass_through, ()
        described = self._describers.patcher(obj)
        if described is not None:
            identity, model_state = described
            self._mark_weights(model_state.get("patches"))
            return restore.model_patcher, (identity,), model_state, None, None, restore.set_patcher_state
        state = self._describers.module_patcher(obj)
        if state is not None:
            self._mark_weights(state.get("patches"))
            return restore.module_patcher, (obj.model,), state, None, None, restore.set_patcher_state
        if isinstance(obj, torch.nn.Module):
            return self._reduce_module(obj)
        return super().reducer_override(obj)

    def _globals(self, obj: _Globals):
        obj.of_packs = PackGlobals(sorted(self._stream.code_of))
        return restore.same, (obj.of_packs,)

    def _reduce_module(self, obj: torch.nn.Module):
        if obj is not self._root and not self._has_parts(obj) and _module_bytes(obj) > MODULE_LIMIT:
            return restore.module, (self._module(obj),)
        self._mark_weights(dict(obj.named_parameters(recurse=False)))
        self._mark_weights(dict(obj.named_buffers(recurse=False)))
        return _rebuild_module, (type(obj),), _module_state(obj)

    def _has_parts(self, obj: torch.nn.Module) -> bool:
        """Whether a MODEL's own modules are inside: such a module belongs to this request, not to the next one."""
        return any(self._describers.part(inner) is not None for inner in obj.modules())

    def _function_getnewargs(self, func):
        """The function's own cells, which pickle knows by identity, in place of new ones for each function."""
        *others, _ = super()._function_getnewargs(func)
        return *others, func.__closure__

    def _tensor(self, obj: torch.Tensor):
        if type(obj) is torch.nn.Parameter:
            data = obj.data
            self._weights.add(id(data))
            self._keep(data)
            return restore.parameter, (data,)
        if type(obj) is not torch.Tensor:
            flat = getattr(obj, "__tensor_flatten__", None)
            if flat is None:
                return NotImplemented
            names, context = flat()
            inner = {name: getattr(obj, name) for name in names}
            self._mark_weights(inner)
            return _unflatten, (type(obj), inner, context, tuple(obj.shape), tuple(obj.stride()))
        if obj.is_meta:
            raise CannotTravel(
                f"{_culprit(self.trail)} holds a tensor of shape {tuple(obj.shape)} without data, made from the weights"
                " of a MODEL of an xDiT loader, which are in the ranks only: load the model with ComfyUI's own loader"
                " and sample it with an xDiT Sampler"
            )
        if obj.layout is not torch.strided:
            raise CannotTravel(f"{_culprit(self.trail)} holds a tensor of layout {obj.layout}, which cannot be sent")
        size = obj.numel() * obj.element_size()
        weight = id(obj) in self._weights
        accelerator = obj.device.type != "cpu"
        if size <= INLINE_LIMIT:
            source, inline = bytes(tensor_bytes(obj)) if size else b"", True
        else:
            source, inline = self._batch.add(obj, stable=weight), False
            self._keep(obj)
        return restore.tensor, (source, inline, obj.dtype, tuple(obj.shape), accelerator, weight)

    def _module(self, obj: torch.nn.Module) -> bytes:
        payload = _dump(obj, self._batch, self._describers, self._stream, root=obj)
        key = blake3.blake3(payload).digest()
        self._stream.modules[key] = payload
        return key

    def _mark_weights(self, value: Any) -> None:
        """Tensors below `value` are weights: never written in place, so their digests are remembered."""
        if isinstance(value, torch.Tensor):
            self._weights.add(id(value))
            self._keep(value)
        elif isinstance(value, dict):
            for item in value.values():
                self._mark_weights(item)
        elif isinstance(value, list | tuple):
            for item in value:
                self._mark_weights(item)
        elif hasattr(value, "weights"):
            self._mark_weights(value.weights)

    def _keep(self, obj: Any) -> None:
        self.trail.append(obj)

    def _note(self, obj: Any) -> None:
        self.trail.append(obj)
        name: object
        if isinstance(obj, types.ModuleType):
            name = obj.__name__
        else:
            name = getattr(obj if hasattr(obj, "__qualname__") else type(obj), "__module__", None)
        if isinstance(name, str) and (pack := pack_of(name)) is not None:
            file = sys.modules[pack].__file__
            assert file is not None  # a pack is known by its file
            self._stream.packs[pack] = file
            self._stream.code_of.add(name)


def dumps(obj: Any, batch: BlobBatch, describers: Describers) -> Stream:
    """Pickle a request, with the variables of the node packs whose code is in it.

    Raises CannotTravel, naming the object and its module.
    """
    stream = Stream(b"")
    stream.data = _dump((obj, _Globals()), batch, describers, stream)
    stream.packs = in_order(stream.packs)
    return stream


class _Globals:
    """What the request's code says that these are: known once all of it is pickled."""

    of_packs: PackGlobals


def _dump(obj: Any, batch: BlobBatch, describers: Describers, stream: Stream, root: Any = None) -> bytes:
    buffer = io.BytesIO()
    pickler = RequestPickler(buffer, batch, describers, stream, root)
    try:
        pickler.dump(obj)
    except CannotTravel:
        raise
    except Exception as error:
        raise CannotTravel(printable(f"{_culprit(pickler.trail)} cannot be sent to the ranks: {error}")) from error
    return buffer.getvalue()


def _culprit(trail: list[Any]) -> str:
    for obj in reversed(trail):
        owner = obj if isinstance(obj, type) or hasattr(obj, "__qualname__") else type(obj)
        module = getattr(owner, "__module__", None) or ""
        if module.partition(".")[0] not in ("", "builtins", "_thread", "torch", "collections", "types", "weakref"):
            return f"{getattr(owner, '__qualname__', owner)} of {module}"
    return "an object of the request"


def uncompiled(obj: Any) -> Any:
    """What torch.compile made `obj` of, or `obj`."""
    if isinstance(obj, torch.nn.Module):
        return obj.__dict__.get("_modules", {}).get("_orig_mod", obj)
    if isinstance(obj, types.FunctionType):
        return obj.__dict__.get("_torchdynamo_orig_callable", obj)
    return obj


def _reduce_cell(cell: types.CellType):
    """Its contents are set once it is known: a function may be in a cell of its own."""
    try:
        contents = cell.cell_contents
    except ValueError:
        return types.CellType, ()  # nothing is assigned yet
    return types.CellType, (), (contents,), None, None, restore.fill_cell


def _reduce_super(obj: Any):
    return super, (obj.__thisclass__, obj.__self__)


def _name_by_path(obj: Any) -> tuple[str, str] | None:
    """(module, qualified name) of a module whose name is a path with dots, which pickle would take for packages, or of
    a class or function in it; None for anything else.
    """
    if isinstance(obj, types.ModuleType):
        module, name = obj.__name__, ""
    elif isinstance(obj, type | types.FunctionType):
        module, name = obj.__module__ or "", obj.__qualname__
    else:
        return None
    parent, dot, _ = module.rpartition(".")
    if not dot or "/" not in parent or parent in sys.modules:
        return None
    try:
        return (module, name) if restore.named(module, name) is obj else None
    except (KeyError, AttributeError):
        return None  # local: pickled by value


def _module_bytes(module: torch.nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def _module_state(module: torch.nn.Module) -> dict[str, Any]:
    state = {name: value for name, value in module.__dict__.items() if name not in HOST_MODULE_STATE}
    state.update({name: [] for name in HOST_MODULE_LISTS if name in state})
    return state


def _rebuild_module(cls: type[torch.nn.Module]) -> torch.nn.Module:
    return cls.__new__(cls)


def _unflatten(cls: Any, inner: dict[str, torch.Tensor], context: Any, shape: tuple, stride: tuple) -> torch.Tensor:
    return cls.__tensor_unflatten__(inner, context, shape, stride)


def _get_pass_through():
    return restore.pass_through
