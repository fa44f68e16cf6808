"""What nodes changed in ComfyUI's process beside the MODELs' patchers, as far as one request meets it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.model_base
import comfy.model_patcher

from ...foreign.changes_in_place import InPlace
from ..model.model_changes import look_at, undivided
from .replaced_by_packs import Replacements


class Changes:
    """`replacements` in ComfyUI's modules, and what was done to the models themselves."""

    def __init__(self, replacements: Replacements, models: dict[int, InPlace]):
        self.replacements = replacements
        self._models = models

    @classmethod
    def none(cls) -> Changes:
        """For what runs no model."""
        return cls(Replacements(), {})

    @classmethod
    def met_by(cls, patchers: Iterable[Any]) -> Changes:
        """Those that sampling with these patchers meets; what is no MODEL is left out."""
        models = {id(one): one for one in patchers if is_model(one)}
        replacements = Replacements.met_by(
            {id(one.model): one.model.diffusion_model for one in models.values()}.values()
        )
        return cls(replacements, {key: look_at(one) for key, one in models.items()})

    @classmethod
    def met_by_guider(cls, guider: Any) -> Changes:
        """Of every MODEL that a guider holds."""
        held = [guider.model_patcher, *vars(guider).values()]
        extra = [one for models in guider.model_patcher.additional_models.values() for one in models]
        return cls.met_by([*held, *extra])

    def inside_the_model(self, patcher: Any, bare: Any) -> Changes:
        """Those that its model calls alone meet, for `bare`, a clone of `patcher` without what belongs to sampling."""
        return Changes(self.replacements.inside_the_model(), {id(bare): self.of(patcher)})

    def of(self, patcher: Any) -> InPlace:
        """What was done to the model of `patcher`."""
        if id(patcher) not in self._models:
            self._models[id(patcher)] = look_at(patcher)
        return self._models[id(patcher)]

    @property
    def undivided(self) -> str:
        """Why a model call cannot be divided, or ""."""
        reasons = (self.replacements.undivided, *(undivided(found) for found in self._models.values()))
        return next((reason for reason in reasons if reason), "")

    @property
    def uncompiled(self) -> bool:
        """Whether a model call runs code that compiled blocks are not made of."""
        return self.replacements.uncompiled or bool(self.undivided)


def is_model(patcher: Any) -> bool:
    """Whether this is a MODEL, and not the patcher of something else."""
    return isinstance(patcher, comfy.model_patcher.ModelPatcher) and isinstance(
        patcher.model, comfy.model_base.BaseModel
    )
