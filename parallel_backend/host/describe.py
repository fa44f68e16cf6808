"""How ComfyUI's objects are described in a request: a MODEL by recipe and state, another patcher by its module."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher

from ..protocol import IN_PLACE, PATCHER_STATE
from ..recipe import ModelIdentity
from ..transport.pickling import Describers
from .changes import Changes
from .loaded import identity_of
from .replacements import Replacements
from .seam import Seam

STATE_NOT_SENT = ("multigpu",)


class GraphDescribers:
    """Describes the objects of one request; `identities` are those of its MODELs, each computed once. `changes`: None
    where nothing runs.
    """

    def __init__(self, changes: Changes | None = None):
        self._changes = changes
        self.identities: dict[int, ModelIdentity] = {}
        self.echo: list[tuple[str, str]] = []

    def describers(self) -> Describers:
        replaced = self._changes.replacements if self._changes is not None else Replacements()
        return Describers(
            self.patcher,
            self.base_model,
            self.module_patcher,
            lambda obj: isinstance(obj, Seam),
            replaced.original,
            replaced.is_disguised,
        )

    def patcher(self, obj: Any) -> tuple[ModelIdentity, dict[str, Any]] | None:
        if not isinstance(obj, comfy.model_patcher.ModelPatcher) or not isinstance(
            obj.model, comfy.model_base.BaseModel
        ):
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
        return self.identities[key]

    def base_model(self, obj: Any) -> ModelIdentity | None:
        return self.identities.get(id(obj)) if isinstance(obj, comfy.model_base.BaseModel) else None

    def module_patcher(self, obj: Any) -> dict[str, Any] | None:
        if not isinstance(obj, comfy.model_patcher.ModelPatcher):
            return None
        comfy.model_management.unload_model_and_clones(obj)
        return patcher_state(obj)


def patcher_state(patcher: Any) -> dict[str, Any]:
    """Everything of a patcher that a rank's patcher takes over (PATCHER_STATE), clones for other GPUs left out."""
    state = {name: getattr(patcher, name) for name in PATCHER_STATE}
    state["additional_models"] = {
        key: models for key, models in patcher.additional_models.items() if key not in STATE_NOT_SENT
    }
    return state
