"""The weights of one model in one rank: views of the file until needed, then on the device; no private host copy."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import comfy.utils
import torch


class Weights:
    """Owns where the parameters of `model.diffusion_model` lie.

    Released: parameters are views of the mmapped file. Resident: they are on `device` in the model's dtype. `patched`
    names those that LoRA and the like changed; restoring reads the file again. `nbytes`: what lies on the device, also
    while it is being read. `title` is for the log.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device, title: str):
        self._model = model
        self.title = title
        self._device = device
        self._source = {name: parameter.data for name, parameter, _ in self._parameters()}
        self.resident = False
        self.nbytes = 0
        self.patched: set[str] = set()

    def _parameters(self) -> Iterator[tuple[str, torch.nn.Parameter, torch.dtype | None]]:
        for module_name, module in self._model.diffusion_model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                path = ".".join(part for part in ("diffusion_model", module_name, name) if part)
                yield path, parameter, getattr(module, f"{name}_comfy_model_dtype", None)

    def materialise(self) -> None:
        """Copy every parameter to the device, one at a time. Raises torch.OutOfMemoryError with everything released."""
        if self.resident:
            return
        logging.info("reading the weights of %s", self.title)
        try:
            for name, _, dtype in list(self._parameters()):
                weight = self._on_device(name, dtype)
                comfy.utils.set_attr_param(self._model, name, weight)
                self.nbytes += weight.nbytes
        except BaseException:
            self.release()
            raise
        self.resident = True

    def _on_device(self, name: str, dtype: torch.dtype | None) -> torch.Tensor:
        source = self._source[name]
        if dtype is None or not source.is_floating_point() or type(source) is not torch.Tensor:
            return source.to(self._device)
        return source.to(self._device).to(dtype)  # in this order the device casts, not the CPU

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
