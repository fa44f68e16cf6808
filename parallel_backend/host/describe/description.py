"""How ComfyUI's objects are described in a request: a MODEL by recipe and state, what belongs to its model by path,
another patcher by its module, the class of a node by the name that it has outside its execution.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import comfy.model_management
import comfy.model_patcher
from comfy_api.internal import _ComfyNodeInternal

from ...contract.payload import IN_PLACE, PATCHER_STATE
from ...contract.recipe import ModelIdentity
from ...transport.pickling import Describers
from ..model.file_identity import identity_of, loaded_models
from ..model.model_parts import ModelParts
from ..model.seam import Seam
from .changes import Changes, is_model
from .compile_nodes import without_compiled, without_wrapper
from .replaced_by_packs import Replacements

STATE_NOT_SENT = ("multigpu",)
HIDDEN_SENT = ("unique_id", "prompt", "extra_pnginfo")


def patchers_of(payload: Any) -> list[Any]:
    """The MODELs that a request is about: `payload` itself, or those of its guider."""
    guider = getattr(payload, "guider", None)
    return [found for found in (payload, *vars(guider).values()) if is_model(found)] if guider else [payload]


class GraphDescribers:
    """Describes the objects of one request; `identities` are those of its MODELs, each computed once.

    `patchers`: those MODELs that the request is about; others may be found in it. `changes`: None where nothing runs.
    """

    def __init__(self, patchers: Iterable[Any], changes: Changes | None = None):
        self._changes = changes
        self.identities: dict[int, ModelIdentity] = {}
        self.echo: list[tuple[str, str]] = []
        self._parts = ModelParts(loaded_models())
        for patcher in patchers:
            self._identity(patcher)

    def describers(self) -> Describers:
        replaced = self._changes.replacements if self._changes is not None else Replacements()
        return Describers(
            self.patcher,
            self._parts.find,
            self.module_patcher,
            node_class,
            lambda obj: isinstance(obj, Seam),
            replaced.original,
            replaced.is_disguised,
        )

    def patcher(self, obj: Any) -> tuple[ModelIdentity, dict[str, Any]] | None:
        if not is_model(obj):
            return None
        identity = self._identity(obj)
        self.echo.append((identity.key, str(obj.patches_uuid)))
        state = patcher_state(obj)
        if self._changes is not None:
            state[IN_PLACE] = self._changes.of(obj)
        return identity, state

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
    if is_model(patcher):
        state["object_patches"] = without_compiled(patcher)
        state["wrappers"] = without_wrapper(patcher.wrappers)
    state["additional_models"] = {
        key: models for key, models in patcher.additional_models.items() if key not in STATE_NOT_SENT
    }
    return state


def node_class(cls: Any) -> tuple[type, dict[str, Any]] | None:
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
