"""The weights of one model in one rank: views of the file until needed, then on the device; no private host copy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import comfy.utils
import torch

from .placement import REPLICATED, Held, Placement


class Weights:
    """Owns where the parameters of `model.diffusion_model` lie.

    Released: parameters are views of the mmapped file. Resident: those that `placement` gives this rank are on `device`
    in the model's dtype; the others are stand-ins of the same shape that hold nothing but NaN. `patched` names those
    that LoRA and the like changed; restoring reads the file again. `nbytes`: what lies on the device, also while it is
    being read; `wanted`: what will, once resident. `title` is for the log.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device, title: str):
        self._model = model
        self.title = title
        self._device = device
        self._source = {name: parameter.data for name, parameter, _ in self._parameters()}
        self.resident = False
        self.nbytes = 0
        self.patched: set[str] = set()
        self.place(REPLICATED)

    def _parameters(self) -> Iterator[tuple[str, torch.nn.Parameter, torch.dtype | None]]:
        for module_name, module in self._model.diffusion_model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                path = ".".join(part for part in ("diffusion_model", module_name, name) if part)
                yield path, parameter, getattr(module, f"{name}_comfy_model_dtype", None)

    def place(self, placement: Placement) -> None:
        """What `materialise` puts on the device from now on. Only while released: see RankModelPatcher.place."""
        assert not self.resident or placement == self.placement
        self.placement = placement
        self.wanted = self._count_wanted()

    def held(self, name: str) -> Held:
        """What this rank holds of a parameter; of what is no parameter of the diffusion model, all."""
        return self.placement.held(name) if name in self._source else Held.WHOLE

    def _count_wanted(self) -> int:
        return sum(
            _nbytes(self._source[name], self._cast(name, dtype))
            for name, _, dtype in self._parameters()
            if self.held(name) is Held.WHOLE
        )

    def materialise(self) -> None:
        """Copy every parameter that this rank holds to the device, one at a time.

        Raises torch.OutOfMemoryError with everything released.
        """
        if self.resident:
            return
        logging.info("reading the weights of %s", self.title)
        try:
            for name, _, dtype in list(self._parameters()):
                self._materialise(name, dtype)
        except BaseException:
            self.release()
            raise
        self.resident = True

    def _materialise(self, name: str, dtype: torch.dtype | None) -> None:
        if self.held(name) is Held.ABSENT:
            comfy.utils.set_attr_param(self._model, name, _stand_in(self._source[name], self._device))
            return
        weight = self._on_device(name, dtype)
        comfy.utils.set_attr_param(self._model, name, weight)
        self.nbytes += _nbytes(weight)

    def _on_device(self, name: str, dtype: torch.dtype | None) -> torch.Tensor:
        weight = self._source[name].to(self._device)
        cast = self._cast(name, dtype)
        return weight if cast is None else weight.to(cast)  # in this order the device casts, not the CPU

    def _cast(self, name: str, dtype: torch.dtype | None) -> torch.dtype | None:
        """What a parameter is cast to on the device; None where it stays as it is in the file."""
        source = self._source[name]
        return dtype if source.is_floating_point() and type(source) is torch.Tensor else None

    def release(self) -> None:
        """Give the device memory back; the file's pages stay in the page cache."""
        for name, source in self._source.items():
            comfy.utils.set_attr_param(self._model, name, source)
        self.resident = False
        self.nbytes = 0
        self.patched.clear()

    def restore_patched(self) -> None:
        """Undo patches: the parameters they changed come from the file again."""
        if not self.patched:
            return
        dtypes = {name: dtype for name, _, dtype in self._parameters()}
        for name in sorted(self.patched):
            comfy.utils.set_attr_param(self._model, name, self._on_device(name, dtypes.get(name)))
        self.patched.clear()


def inner_tensors(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The plain tensors that `tensor` consists of: itself, or data and scales of a quantised one."""
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return (tensor,)
    names, _ = tensor.__tensor_flatten__()
    return tuple(getattr(tensor, name) for name in names)


def with_inner(tensor: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A tensor like `tensor` that consists of `change` of each of its plain tensors."""
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return change(tensor)
    names, how = tensor.__tensor_flatten__()
    inner = {name: change(getattr(tensor, name)) for name in names}
    return type(tensor).__tensor_unflatten__(inner, how, tensor.shape, tensor.stride())


def _nbytes(tensor: torch.Tensor, cast: torch.dtype | None = None) -> int:
    """Bytes of `tensor`, or of what it is cast to."""
    return sum(inner.numel() * (cast or inner.dtype).itemsize for inner in inner_tensors(tensor))


def _stand_in(source: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Of the shape and dtype of `source` on the device: one element, NaN where there is one, that is seen everywhere.

    ComfyUI moves every parameter of a model to the device, so one that is absent must look as if it was there.
    """
    return with_inner(source, lambda inner: _nothing(inner.dtype, device).expand(inner.shape))


def _nothing(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    nan = float("nan") if dtype.is_floating_point else 0
    return torch.tensor(nan, dtype=torch.float32).to(dtype).to(device)
