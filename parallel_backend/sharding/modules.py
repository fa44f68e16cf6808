"""Finding a model's modules and the names of their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from .errors import ShardingError


def module_at(model: torch.nn.Module, path: str) -> torch.nn.Module:
    """The submodule at a dotted path; a negative number counts from the end of a list. Raises ShardingError."""
    module = model
    for name in path.split("."):
        try:
            module = module[int(name)] if name.lstrip("-").isdigit() else getattr(module, name)
        except (AttributeError, IndexError) as error:
            raise ShardingError(
                f"{type(model).__qualname__} has no {path}: this version of ComfyUI does not match the plan; update"
                " xDiT for ComfyUI"
            ) from error
    return module


def blocks_at(model: torch.nn.Module, path: str) -> list[torch.nn.Module]:
    """The modules of the list at `path`, or the one module there."""
    found = module_at(model, path)
    return list(found) if isinstance(found, torch.nn.ModuleList) else [found]


def argument_names(module: torch.nn.Module) -> tuple[str, ...]:
    return tuple(inspect.signature(module.forward).parameters)


def bind(names: tuple[str, ...], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def check_arguments(model: str, path: str, wanted: Mapping[str, Any] | Iterable[str], names: tuple[str, ...]) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ShardingError(
            f"{model}: {path} takes {', '.join(names)}; the plan expects {', '.join(missing)} too. This version of"
            " ComfyUI renamed an argument; update xDiT for ComfyUI"
        )
