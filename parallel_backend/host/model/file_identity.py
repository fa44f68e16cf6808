"""Whether a MODEL's files are still those it was loaded from.

ComfyUI keeps a MODEL while its graph stays the same, and what the graph built on it (sigmas, LoRA keys, the latent's
format) belongs to the weights of then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_base

from ...contract.recipe import ModelIdentity, Recipe
from ...system.printable_names import shown

_loaded: WeakKeyDictionary[comfy.model_base.BaseModel, ModelIdentity] = WeakKeyDictionary()


class FilesChanged(ValueError):
    """A MODEL's files are not those any more that it was loaded from; the message names them."""


def remember(model: comfy.model_base.BaseModel, identity: ModelIdentity) -> None:
    """`model` was loaded from these files."""
    _loaded[model] = identity


def loaded_models() -> Iterator[tuple[comfy.model_base.BaseModel, ModelIdentity]]:
    """Every model that is still there of those that were sampled, or made by an xDiT loader."""
    yield from list(_loaded.items())


def identity_of(patcher: Any) -> ModelIdentity:
    """The identity of a MODEL's weights. One that another loader made is remembered as it is seen first.

    Raises NoRecipe, UnreadableWeights, or FilesChanged.
    """
    now = Recipe.of(patcher).identity()
    before = _loaded.setdefault(patcher.model, now)
    if before.key != now.key:
        raise FilesChanged(_changed(before, now))
    return now


def _changed(before: ModelIdentity, now: ModelIdentity) -> str:
    gone = [file.path for file in before.files if not os.path.exists(file.path)]
    if gone:
        names = ", ".join(map(shown, gone))
        return f"{names}, from which this MODEL was loaded, is gone: put it back, or choose another file"
    different = ", ".join(shown(file.path) for file in before.files if file not in now.files) or before.title
    return (
        f"{different} changed on disk after this MODEL was loaded from it. Queue the prompt again: an xDiT loader then"
        " reads it anew; for another loader first change one of its inputs"
    )
