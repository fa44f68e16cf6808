"""What belongs to the model of a MODEL, by its path: nodes hold submodules, methods bound to them, parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import comfy.model_base
import torch

from ..recipe import ModelIdentity


class ModelParts:
    """The modules, parameters and buffers of models that the ranks hold too, by identity of the object.

    `known`: (model, identity) of those that a request may refer to although it does not sample with them. They are
    looked through when a module or a parameter belongs to none of the request's own.
    """

    def __init__(self, known: Iterable[tuple[comfy.model_base.BaseModel, ModelIdentity]] = ()):
        self._paths: dict[int, tuple[ModelIdentity, str]] = {}
        self._known = iter(known)
        self._seen: list[comfy.model_base.BaseModel] = []  # keeps the objects, and so their ids

    def add(self, model: comfy.model_base.BaseModel, identity: ModelIdentity) -> None:
        if any(model is seen for seen in self._seen):
            return
        self._seen.append(model)
        for part, path in _parts(model):
            self._paths.setdefault(id(part), (identity, path))

    def find(self, obj: Any) -> tuple[ModelIdentity, str] | None:
        """The model that `obj` belongs to and its path there, "" for the model itself; None for any other object."""
        if not isinstance(obj, torch.nn.Module | torch.Tensor):
            return None
        found = self._paths.get(id(obj))
        if found is None and isinstance(obj, torch.nn.Module | torch.nn.Parameter):
            for model, identity in self._known:
                self.add(model, identity)
            found = self._paths.get(id(obj))
        return found


def _parts(model: torch.nn.Module) -> Iterator[tuple[Any, str]]:
    for path, module in model.named_modules():
        yield module, path
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield tensor, f"{path}.{name}" if path else name
