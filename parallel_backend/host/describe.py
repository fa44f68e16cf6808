"""How ComfyUI's objects are described in a request: a MODEL by recipe and state, what belongs to its model by path,
another patcher by its module, the class of a node by the name that it has outside its execution.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
from comfy_api.internal import _ComfyNodeInternal

from ..protocol import PATCHER_STATE
from ..recipe import ModelIdentity
from ..transport.pickling import Describers
from .compile_nodes import without_compiled, without_wrapper
from .loaded import identity_of, loaded_models
from .model_parts import ModelParts
from .seam import Seam

STATE_NOT_SENT = ("multigpu",)
HIDDEN_SENT = ("unique_id", "prompt", "extra_pnginfo")


def patchers_of(payload: Any) -> list[Any]:
    """The MODELs that a request is about: `payload` itself, or those of its guider."""
    guider = getattr(payload, "guider", None)
    return [found for found in (payload, *vars(guider).values()) if _is_model(found)] if guider else [payload]


def _is_model(obj: Any) -> bool:
    return isinstance(obj, comfy.model_patcher.ModelPatcher) and isinstance(obj.model, comfy.model_base.BaseModel)


class GraphDescribers:
    """Describes the objects of one request; `identities` are those of its MODELs, each computed once.

    `patchers`: those MODELs that the request is about; others may be found in it.
    """

    def __init__(self, patchers: Iterable[Any]):
        self.identities: dict[int, ModelIdentity] = {}
        self.echo: list[tuple[str, str]] = []
        self._parts = ModelParts(loaded_models())
        for patcher in patchers:
            self._identity(patcher)

    def describers(self) -> Describers:
        return Describers(
            self.patcher, self._parts.find, self.module_patcher, node_class, lambda obj: isinstance(obj, Seam)
        )

    def patcher(self, obj: Any) -> tuple[ModelIdentity, dict[str, Any]] | None:
        if not _is_model(obj):
            return None
        identity = self._identity(obj)
        self.echo.append((identity.key, str(obj.patches_uuid)))
        return identity, patcher_state(obj)

    def _identity(self, patcher: Any) -> ModelIdentity:
        key = id(patcher.model)
        if key not in self.identities:
            self.identities[key] = identity_of(patcher)
            self._parts.add(patcher.model, self.identities[key])
        return self.identities[key]

    def module_patcher(self, obj: Any) -> dict[str, Any] | None:
        if not isinstance(obj, comfy.model_patcher.ModelPatcher):
            return None
        comfy.model_management.unload_model_and_clones(obj)
        return patcher_state(obj)


def patcher_state(patcher: Any) -> dict[str, Any]:
    """Everything of a patcher that a rank's patcher takes over (PATCHER_STATE), clones for other GPUs left out."""
    state = {name: getattr(patcher, name) for name in PATCHER_STATE}
    if _is_model(patcher):
        state["object_patches"] = without_compiled(patcher)
        state["wrappers"] = without_wrapper(patcher.wrappers)
    state["additional_models"] = {
        key: models for key, models in patcher.additional_models.items() if key not in STATE_NOT_SENT
    }
    return state


def node_class(cls: type) -> tuple[type, dict[str, Any]] | None:
    """For the class that ComfyUI makes of a V3 node's class for each execution: the node's class, and what it knows of
    the execution, but for accounts and what belongs to ComfyUI's process.
    """
    if not issubclass(cls, _ComfyNodeInternal):
        return None
    own = next((base for base in cls.__mro__ if _is_importable(base)), None)
    if own is cls or own is None or not issubclass(own, _ComfyNodeInternal) or cls.__name__ != f"{own.__name__}Clone":
        return None
    return own, {name: getattr(cls.hidden, name) for name in HIDDEN_SENT}


def _is_importable(cls: type) -> bool:
    module = sys.modules.get(cls.__module__)
    return module is not None and getattr(module, cls.__qualname__, None) is cls
