"""What a node did to a loaded model itself, beside its patcher; and whether its weights are still the file's.

The same functions look at ComfyUI's model and at a rank's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .per_class import once_per_class

CLASS = "__class__"
AS_PATCHED = "what its object patch makes of it"
SAMPLES = 32  # elements that are looked at of each tensor, the first and the last among them
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Method:
    """`value` under `name` in the module at `path` hides what its class has there. `bound`: the first argument of
    `value` is the module.
    """

    path: str
    name: str
    value: Callable
    bound: bool

    @property
    def key(self) -> str:
        """As ComfyUI names an object patch."""
        return f"{self.path}.{self.name}" if self.path else self.name


@dataclass(frozen=True)
class Hook:
    """A forward hook of the module at `path`; before its forward (`early`), with keyword arguments, and also after an
    exception (`always`).
    """

    path: str
    value: Callable
    early: bool
    with_kwargs: bool
    always: bool


@dataclass
class InPlace:
    """Of a BaseModel, by paths below it.

    `classes`: path → name of the module's class (`class_name`). `foreign`: path → class, where it is another pack's.
    `samples`: name → (dtype, bits of a few elements) of each plain tensor that is there; `skipped`: the object patches
    of its patcher, which take the place of whatever was there. `attributes`: path → plain numbers, texts and flags of
    what belongs to an architecture.
    """

    methods: list[Method] = field(default_factory=list)
    hooks: list[Hook] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, type] = field(default_factory=dict)
    samples: dict[str, tuple[torch.dtype, bytes]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)


@once_per_class
def class_name(cls: type) -> str:
    """A name that does not tell apart ComfyUI's sets of layers, each with a Linear of its own."""
    if cls.__module__.startswith(("comfy.ops", "torch.nn.")) or "<locals>" in cls.__qualname__:
        return cls.__qualname__.rpartition(".")[2]
    return f"{cls.__module__}.{cls.__qualname__}"


@once_per_class
def _is_of_an_architecture(cls: type) -> bool:
    """Also a pack's subclass of one of ComfyUI's."""
    return any(base.__module__.startswith("comfy.ldm.") for base in cls.__mro__)


def attributes_of(module: torch.nn.Module) -> dict[str, Any]:
    """Plain numbers, texts and flags by which a module of an architecture computes."""
    if not _is_of_an_architecture(type(module)):
        return {}
    return {
        name: value
        for name, value in vars(module).items()
        if type(value) in (bool, int, float, str) and name != "training" and not name.startswith("_")
    }


def modules_of(model: torch.nn.Module, skipped: Iterable[str]) -> Iterator[tuple[str, torch.nn.Module]]:
    """(path, module) of a BaseModel's modules, but those that an object patch put there and what is below."""
    names = set(skipped)
    below = tuple(f"{name}." for name in names)
    for path, module in model.named_modules():
        if path not in names and not path.startswith(below):
            yield path, module


def tensors_of(modules: Iterable[tuple[str, torch.nn.Module]]) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, data) of the parameters, and of the buffers of what turns sigmas into timesteps, of `modules_of`."""
    for path, module in modules:
        own = module._parameters if not path.startswith("model_sampling") else {**module._parameters, **module._buffers}
        for name, tensor in own.items():
            if tensor is not None:
                yield f"{path}.{name}" if path else name, tensor.data


def samples(
    tensors: Iterable[tuple[str, torch.Tensor]], cast: Mapping[str, torch.dtype] | None = None
) -> dict[str, tuple[torch.dtype, bytes]]:
    """`InPlace.samples` of plain tensors; others, and those without data, are left out. `cast`: name → the dtype in
    which they are compared.
    """
    found: dict[tuple[torch.device, int], list[tuple[str, torch.dtype, torch.Tensor]]] = {}
    for name, tensor in tensors:
        if type(tensor) is not torch.Tensor or tensor.is_meta or not tensor.is_contiguous() or not tensor.numel():
            continue
        count = min(SAMPLES, tensor.numel())
        step = (tensor.numel() - 1) // max(1, count - 1)
        some = tensor.as_strided((count,), (max(1, step),), tensor.storage_offset())
        if cast is not None:
            some = some.to(cast[name])
        if (bits := _BITS.get(some.element_size())) is not None and not some.is_complex():
            found.setdefault((some.device, some.element_size()), []).append((name, some.dtype, some.view(bits)))
    result = {}
    for (_, size), those in found.items():
        data = torch.cat([some for _, _, some in those]).cpu().numpy().tobytes()
        start = 0
        for name, dtype, some in those:
            end = start + some.numel() * size
            result[name] = dtype, data[start:end]
            start = end
    return result
