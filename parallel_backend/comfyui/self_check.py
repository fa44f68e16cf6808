"""Whether the ComfyUI at hand has what border.py names, as this pack uses it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .border import USED, Used


@dataclass(frozen=True)
class Misfit:
    """A name that is not as expected: `what` is wrong with it."""

    used: Used
    what: str

    def __str__(self) -> str:
        return f"{self.used.name} {self.what}; it is used for {self.used.why}. What may fail: {self.used.without}"


def misfits(names: Iterable[Used] = USED) -> list[Misfit]:
    """All of `names` that this ComfyUI lacks or that take other parameters. Imports the modules that they are in."""
    return [Misfit(used, what) for used in names if (what := _misfit(used)) is not None]


def overrides(ours: type, base: type) -> list[str]:
    """Methods of `base` that `ours` overrides with parameters that calls of the base's may not fit, and how."""
    found = []
    for name, function in vars(ours).items():
        theirs = getattr(base, name, None)
        if name == "__init__" or not inspect.isfunction(function) or not inspect.isfunction(theirs):
            continue
        wanted, taken = _parameters(theirs), inspect.signature(function).parameters
        if {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL} <= {one.kind for one in taken.values()}:
            continue
        own = _parameters(function)
        if own[: len(wanted)] != wanted:
            found.append(f"{ours.__qualname__}.{name} takes {own}, ComfyUI's takes {wanted}")
    return found


def _parameters(function: Any) -> list[str]:
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [name for name, one in inspect.signature(function).parameters.items() if one.kind not in variadic]


def _misfit(used: Used) -> str | None:
    try:
        found = _found(used.name)
    except (ImportError, AttributeError):
        return "does not exist"
    if not used.takes:
        return None
    parameters = inspect.signature(found).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return None
    missing = [name for name in used.takes if name not in parameters]
    return f"does not take {', '.join(missing)}" if missing else None


def _found(name: str) -> Any:
    """Raises ImportError, AttributeError."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise ImportError(name)
