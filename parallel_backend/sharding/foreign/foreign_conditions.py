"""What conditions bring that only a node pack knows how to count, copy and cut: classes that are not ComfyUI's."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Any

import comfy.conds
import comfy.controlnet
import torch

from .authors import Name, name_of


def foreign_conditions(conds: Iterable[list | None]) -> Iterator[str]:
    """Each of them in words, its class named. conds: lists of conditions as in `guider.conds`."""
    yield from (f"the ControlNet {name}" for name in foreign_controls(conds))
    for cond in conds:
        for part in cond or ():
            for key, value in part.get("model_conds", {}).items():
                if name_of(value).is_foreign:
                    yield f"the conditioning {key!r} ({name_of(value)})"
            for key, value in part.items():
                if key not in ("control", "model_conds") and (name := _foreign_within(value)) is not None:
                    yield f"the conditioning {key!r} ({name})"


def foreign_controls(conds: Iterable[list | None]) -> list[str]:
    """The names of ControlNets whose class, or part of them, is a node pack's, each once."""
    chains = (_chain(part.get("control")) for cond in conds for part in cond or ())
    names = (_foreign_control(control) for chain in chains for control in chain)
    return list(dict.fromkeys(str(name) for name in names if name is not None))


def too_many_hints(conds: Iterable[list | None], rows: int) -> Iterator[str]:
    """ControlNets with as many hints as a call of several conditions has rows: ComfyUI then gives each condition hints
    of its own (ControlNet.get_control of comfy/controlnet.py), which it does not where a call has other rows.
    """
    for cond in conds:
        for part in cond or ():
            for control in _chain(part.get("control")):
                hint = getattr(control, "cond_hint_original", None)
                if isinstance(hint, torch.Tensor) and hint.shape[0] > rows and hint.shape[0] % rows == 0:
                    yield f"the ControlNet {name_of(control)} with {hint.shape[0]} hints for {rows} images"


def uncut_constants(conds: Iterable[list | None], rows: int) -> Iterator[str]:
    """Constants that may hold something for each row: ComfyUI hands them on as they are, whatever the rows."""
    for cond in conds:
        for part in cond or ():
            for key, value in part.get("model_conds", {}).items():
                if isinstance(value, comfy.conds.CONDConstant) and any(
                    tensor.ndim and tensor.shape[0] == rows for tensor in _tensors(value.cond)
                ):
                    yield f"the conditioning {key!r}, a constant that may hold a value for each image,"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _chain(control: Any) -> Iterator[Any]:
    """A ControlNet and those before it."""
    while control is not None:
        yield control
        control = getattr(control, "previous_controlnet", None)


def _foreign_control(control: Any) -> Name | None:
    """What of a ControlNet is a pack's: its class, or a function or module that it holds."""
    if not isinstance(control, comfy.controlnet.ControlBase) or name_of(control).is_foreign:
        return name_of(control)
    held = (
        value
        for value in vars(control).values()
        if isinstance(value, torch.nn.Module | types.FunctionType | types.MethodType)
    )
    return next((name_of(value) for value in held if name_of(value).is_foreign), None)


def _foreign_within(value: Any) -> Name | None:
    """The class or function of a pack in an entry of a condition, one level of containers deep."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
    return next((name_of(item) for item in items if name_of(item).is_foreign), None)
