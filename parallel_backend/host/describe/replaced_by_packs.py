"""What node packs replaced in ComfyUI's modules, for the ranks of one request."""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ...foreign.code_origin import is_comfy_file
from ...foreign.replaced_functions import Replaced, find_replaced
from .pack_settings import settings_of

WHAT_TO_DO = (
    "leave out the node that does it and restart ComfyUI (a pack that does it when it is loaded: disable the pack), or"
    " sample with a stock loader and sampler"
)


@dataclass(frozen=True)
class Replacements:
    """`found` is what the sampling of a request would meet in ComfyUI's process."""

    found: tuple[Replaced, ...] = ()

    @classmethod
    def met_by(cls, models: Iterable[torch.nn.Module]) -> Replacements:
        """Those that sampling with these diffusion models meets."""
        found = {(one.module, one.name): one for model in models for one in find_replaced(model)}
        return cls(tuple(found.values()))

    def inside_the_model(self) -> Replacements:
        """Those that a model call alone meets."""
        return Replacements(tuple(one for one in self.found if one.inside_the_model))

    @property
    def undivided(self) -> str:
        """Why a model call cannot be divided, or ""."""
        one = next((one for one in self.found if one.of_the_architecture), None)
        return (
            f"{one.pack} replaced {one.title} of ComfyUI, which may look at all tokens of a model call" if one else ""
        )

    @property
    def uncompiled(self) -> bool:
        """Whether the model runs code that the compiled blocks were not made of."""
        return any(one.inside_the_model for one in self.found)

    def entries(self) -> list[tuple[str, str, Any]]:
        """(module, qualified name, value) of each."""
        return [(one.module, one.name, one.value) for one in self.found]

    def settings(self) -> list[tuple[str, str, Any]]:
        """(module, attribute path, value) of what they read from their packs' modules."""
        return settings_of(one.value for one in self.found)

    def settings_of(self, one: Replaced) -> list[tuple[str, str, Any]]:
        """`settings` of one of them."""
        return settings_of((one.value,))

    # For the pickler

    def original(self, obj: Any) -> tuple[str, str] | None:
        """(module, qualified name) of ComfyUI's own function or class whose place another one took; None for others."""
        name = getattr(obj, "__qualname__", None)
        if not self.found or name is None:
            return None
        for one in self.found:
            if one.module != obj.__module__ or one.value is obj:
                continue
            if (name == one.name or name.startswith(f"{one.name}.")) and _is_comfys(obj):
                return one.module, name
        return None

    def is_disguised(self, obj: Any) -> bool:
        """Whether a function that took a place goes by the name of the one that it replaced (functools.wraps)."""
        return (
            isinstance(obj, types.FunctionType)
            and any(one.module == obj.__module__ for one in self.found)
            and not is_comfy_file(obj.__code__.co_filename)
        )


def _is_comfys(obj: Any) -> bool:
    return isinstance(obj, type) or isinstance(obj, types.FunctionType) and is_comfy_file(obj.__code__.co_filename)
