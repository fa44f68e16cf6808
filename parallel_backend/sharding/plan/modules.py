"""Finding a model's modules and the names of their arguments."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from .errors import PlanMismatch


def module_at(model: torch.nn.Module, path: str) -> torch.nn.Module:
    """The submodule at a dotted path; raises PlanMismatch.

    A number is an index into a list, or into the values of a dict; a negative one counts from the end; "1:" is a slice.
    """
    module: Any = model
    for name in path.split("."):
        try:
            if isinstance(module, torch.nn.ModuleDict):
                module = torch.nn.ModuleList(module.values())
            if name.endswith(":"):
                module = module[int(name[:-1]) :]
            else:
                module = module[int(name)] if name.lstrip("-").isdigit() else getattr(module, name)
        except (AttributeError, IndexError) as error:
            raise PlanMismatch(f"{type(model).__qualname__} has no {path}") from error
    return module


def blocks_at(model: torch.nn.Module, path: str) -> list[torch.nn.Module]:
    """The modules of the list or dict at `path`, or the one module there."""
    found = module_at(model, path)
    if isinstance(found, torch.nn.ModuleDict):
        return list(found.values())
    return list(found) if isinstance(found, torch.nn.ModuleList) else [found]


def blocks_if_any(model: torch.nn.Module, path: str) -> list[torch.nn.Module]:
    """As blocks_at, for modules that not every model of the class has: none then."""
    return blocks_at(model, path) if path in dict(model.named_modules()) else []


def argument_names(module: torch.nn.Module, signature: str = "") -> tuple[str, ...]:
    """The arguments of the module's forward, or of the function "module:name" that it hands them on to.

    "**" among them: there are more, passed by name and seen only when it is called.
    """
    return parameter_names(function_at(signature) if signature else module.forward)


def parameter_names(function: Callable) -> tuple[str, ...]:
    """The parameters of a function; "**" stands for those that are passed by name and not listed."""
    parameters = inspect.signature(function).parameters.values()
    return tuple("**" if item.kind is item.VAR_KEYWORD else item.name for item in parameters)


def function_at(name: str) -> Callable:
    """The function "module:name". Raises PlanMismatch."""
    module_name, _, function_name = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise PlanMismatch(f"there is no {name}") from error


def bind(names: tuple[str, ...], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Callable) -> Iterator[None]:
    """`value` in the place of the method `name` of this one object, or of a Python module's function, while the context
    lasts.
    """
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def check_arguments(model: str, path: str, wanted: Mapping[str, Any] | Iterable[str], names: tuple[str, ...]) -> None:
    missing = [name for name in wanted if name not in names]
    if missing and "**" not in names:
        raise PlanMismatch(f"{model}: {path} takes {', '.join(names)}; the plan expects {', '.join(missing)} too")
