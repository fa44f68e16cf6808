"""What belongs to the model of a MODEL, by its path: nodes hold submodules, methods bound to them, parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import comfy.model_base
import torch

from ...contract.recipe import ModelIdentity


class ModelParts:
    """The modules, parameters and buffers of models that the ranks hold too, by identity of the object.

    `known`: (model, identity) of those that a request may refer to although it does not sample with them. They are
    looked through when something belongs to none of the request's own, and all of them only when there is anything that
    may be part of a model.
    """

    def __init__(self, known: Iterable[tuple[comfy.model_base.BaseModel, ModelIdentity]] = ()):
        self._paths: dict[int, tuple[ModelIdentity, str]] = {}
        self._own: list[tuple[comfy.model_base.BaseModel, ModelIdentity]] = []  # not looked through yet
        self._known = iter(known)
        self._seen: list[comfy.model_base.BaseModel] = []  # keeps the objects, and so their ids

    def add(self, model: comfy.model_base.BaseModel, identity: ModelIdentity) -> None:
        self._own.append((model, identity))

    def find(self, obj: Any) -> tuple[ModelIdentity, str] | None:
        """The model that `obj` belongs to and its path there, "" for the model itself; None for any other object, and
        for a tensor that can go by its value.
        """
        if not isinstance(obj, torch.nn.Module | torch.nn.Parameter) and not (
            isinstance(obj, torch.Tensor) and obj.is_meta
        ):
            return None
        while self._own:
            self._look_through(*self._own.pop())
        found = self._paths.get(id(obj))
        if found is None:
            for model, identity in self._known:
                self._look_through(model, identity)
            found = self._paths.get(id(obj))
        return found

    def _look_through(self, model: comfy.model_base.BaseModel, identity: ModelIdentity) -> None:
        if any(model is seen for seen in self._seen):
            return
        self._seen.append(model)
        for part, path in _parts(model):
            self._paths.setdefault(id(part), (identity, path))


def _parts(model: torch.nn.Module) -> Iterator[tuple[Any, str]]:
    for path, module in model.named_modules():
        yield module, path
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield tensor, f"{path}.{name}" if path else name
