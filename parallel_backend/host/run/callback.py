"""The callback of a sampling run. ComfyUI's own only looks at the latents; any other may do with them what it likes."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import comfy.samplers
import latent_preview
import torch

from ...contract.commands import StepAnswer
from ...contract.process_settings import ProcessSettings
from ...contract.random_state import RandomState
from ...contract.reports import Step
from ...transport.packing import pack, unpack

Callback = Callable[[int, torch.Tensor, torch.Tensor, int], None]
PACKED = "packed_callback"  # what comfy.samplers calls it within its own for nested latents
OWN_PACKAGE = __name__.rpartition(".host.")[0]


def only_looks(callback: Callback) -> bool:
    """Whether it is the one that latent_preview makes, or this pack's, maybe within ComfyUI's for nested latents."""
    callback = _given(callback)
    return inspect.isfunction(callback) and _is_from(callback, latent_preview.__name__, OWN_PACKAGE)


def _given(callback: Callback) -> Callback:
    """What the sampler node gave, without what this pack and ComfyUI put around it."""
    while inspect.isfunction(callback):
        if _is_from(callback, OWN_PACKAGE) and hasattr(callback, "__wrapped__"):
            callback = callback.__wrapped__
        elif _is_from(callback, comfy.samplers.__name__) and PACKED in callback.__code__.co_freevars:
            callback = inspect.getclosurevars(callback).nonlocals[PACKED]
        else:
            break
    return callback


def _is_from(function: Callback, *packages: str) -> bool:
    name = function.__globals__.get("__name__", "")
    return any(name == package or name.startswith(f"{package}.") for package in packages)


class Shown:
    """Gives each step's tensors to a callback that only looks."""

    def __init__(self, callback: Callback, device: torch.device):
        self._callback = callback
        self._device = device

    def step(self, step: Step) -> None:
        x0, x = _tensors(step, self._device)
        self._callback(step.step, x0, x, step.total)


class Answered:
    """Gives each step's tensors to any callback, and tells the ranks by `answer` what became of them, of the random
    state and of the `guider`. What it changes of the process's settings stays here; the first time that is said.
    """

    def __init__(self, callback: Callback, device: torch.device, guider: Any, answer: Callable[[StepAnswer], None]):
        self._callback = callback
        self._guider = guider
        self._device = device
        self._answer = answer
        self._told: set[str] = set()

    def step(self, step: Step) -> None:
        x0, x = _tensors(step, self._device)
        before, settings, attributes = [x0.clone(), x.clone()], ProcessSettings.read(), _plain(self._guider)
        assert step.random is not None, "a rank that waits for an answer sends its random state"
        step.random.restore(self._device)
        self._callback(step.step, x0, x, step.total)
        self._tell(ProcessSettings.read().unlike(settings))
        edited_x0, edited_x = (
            None if torch.equal(tensor, old) else pack(tensor) for tensor, old in zip((x0, x), before, strict=True)
        )
        changed = {
            name: value for name, value in _plain(self._guider).items() if (name, value) not in attributes.items()
        }
        self._answer(
            StepAnswer(step.request, step.number, edited_x0, edited_x, RandomState.take(self._device), changed)
        )

    def _tell(self, changed: list[str]) -> None:
        new = set(changed) - self._told
        if new:
            self._told |= new
            logging.warning(
                "xDiT: %s changed %s while sampling; the ranks go on as they began. Set it before sampling, in a node",
                describe(self._callback),
                ", ".join(sorted(new)),
            )


def describe(callback: Callback) -> str:
    """A callback's name and module, for a message."""
    callback = _given(callback)
    name = getattr(callback, "__qualname__", type(callback).__qualname__)
    return f"the callback {name} of {getattr(callback, '__module__', type(callback).__module__)}"


def _plain(guider: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(guider).items() if isinstance(value, bool | int | float | str)}


def _tensors(step: Step, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    x = unpack(step.x, device)
    return x if step.x0 is None else unpack(step.x0, device), x
