"""One parameter of a model: in its file, on a device, or a stand-in that holds nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import torch


@dataclass(frozen=True, eq=False)
class Stored:
    """The parameter `attribute` of `module`, which ComfyUI calls `name`.

    `source`: a view of the mmapped file. `cast`: what the device makes of it, None where it stays as it is in the file.
    """

    name: str
    module: torch.nn.Module
    attribute: str
    source: torch.Tensor
    cast: torch.dtype | None

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(inner.numel() * self.dtype(inner).itemsize for inner in inner_tensors(self.source))

    def dtype(self, inner: torch.Tensor) -> torch.dtype:
        """What one of the source's plain tensors has on the device."""
        return self.cast or inner.dtype

    def on(self, device: torch.device) -> torch.Tensor:
        """A copy of the file's tensor; on the CPU, where nothing has to be cast, the file's pages themselves."""
        tensor = self.source.to(device)
        return tensor if self.cast is None else tensor.to(self.cast)  # in this order the device casts, not the CPU

    def show(self, tensor: torch.Tensor) -> None:
        """What the module sees from now on."""
        self.module._parameters[self.attribute] = as_parameter(tensor)

    def stand_in(self, device: torch.device) -> torch.Tensor:
        """Of the source's shape and dtype on the device: one element, NaN where there is one, that is seen everywhere.

        ComfyUI moves every parameter of a model to the device, so one that is not there must look as if it was. It
        stands for a quantised one too, whose scales would be copied on the way.
        """
        dtype = self.dtype(self.source)
        value = float("nan") if dtype.is_floating_point else 0
        return torch.tensor(value, dtype=torch.float32).to(dtype).to(device).expand(self.source.shape)


def stored_parameters(model: Any) -> dict[str, Stored]:
    """Those of the diffusion model of a BaseModel, freshly loaded, by name."""
    found = {}
    for path, module in model.diffusion_model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = ".".join(part for part in ("diffusion_model", path, attribute) if part)
            source = parameter.data
            plain = not _has_parts(source) and source.is_floating_point()
            cast = getattr(module, f"{attribute}_comfy_model_dtype", None) if plain else None
            found[name] = Stored(name, module, attribute, source, cast)
    return found


def as_parameter(tensor: torch.Tensor) -> torch.nn.Parameter:
    """`tensor` as a module holds it. torch.nn.Parameter would copy the scales of a quantised one."""
    if isinstance(tensor, torch.nn.Parameter):
        return tensor
    if type(tensor) is torch.Tensor:
        return torch.nn.Parameter(tensor, requires_grad=False)
    tensor._is_param = True
    return cast(torch.nn.Parameter, tensor)  # isinstance says so too, by that attribute


def inner_tensors(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors that `tensor` consists of: itself, or data and scales of a quantised one."""
    if not _has_parts(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [getattr(tensor, name) for name in names]


def with_inner(tensor: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A tensor like `tensor` that consists of `change` of each of its plain tensors."""
    if not _has_parts(tensor):
        return change(tensor)
    names, how = tensor.__tensor_flatten__()
    inner = {name: change(getattr(tensor, name)) for name in names}
    return type(tensor).__tensor_unflatten__(inner, how, tensor.shape, tensor.stride())


def _has_parts(tensor: torch.Tensor) -> TypeGuard[Any]:
    """Whether it consists of other tensors, as a quantised one does."""
    return hasattr(tensor, "__tensor_flatten__")
