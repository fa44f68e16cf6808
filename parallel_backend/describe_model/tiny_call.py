"""Inputs of a tiny call, on meta: no value is computed, only shapes, so a call of any model takes a moment.

The widths of text and of a vector are not written down anywhere: those that the model's own matrices take are tried.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .model_source import Source
from .observed import Observed, observe

# (height, width) and text tokens: as it is, with another latent, with another text. Divisible by any size of patches.
SIZES = (((16, 24), 13), ((24, 32), 13), ((16, 24), 29))
FRAMES = 5
TEXT_NAMES = ("txt", "text", "context", "cap", "cond", "caption", "y_")
COMPUTED_IN = (torch.float32, torch.bfloat16, torch.float16)
MOST_TRIES = 500


class CannotCall(ValueError):
    """No tiny call of the model went through."""


@dataclass(frozen=True)
class Inputs:
    """Shapes of a call: the latent without height and width, the widths of context (0: it was given) and vector."""

    latent: tuple[int, ...]
    context: int
    vector: int | None

    def __str__(self) -> str:
        vector = f", y [1, {self.vector}]" if self.vector else ""
        (height, width), tokens = SIZES[0]
        latent = ", ".join(map(str, (1, *self.latent, height, width)))
        context = f", context [1, {tokens}, {self.context}]" if self.context else ""
        return f"latent [{latent}]{context}{vector}"


def observed(
    source: Source, given: dict[str, Any], channels: int | None, frames: int | None
) -> tuple[Observed, Inputs]:
    """`given`: arguments of the model's forward, numbers or shapes, in which "T" is the number of text tokens, "H" and
    "W" the size of the latent. `channels`, `frames`: of the latent, None for what goes.

    Raises CannotCall, with what the model said.
    """
    said: dict[str, None] = {}
    for inputs in itertools.islice(_candidates(source, given, channels, frames), MOST_TRIES):
        try:
            with torch.inference_mode():
                return observe(source.model, _call(source.model, inputs, given), SIZES), inputs
        except Exception as error:  # of the model, whose inputs did not fit
            said.setdefault(f"{type(error).__name__}: {error}"[:300])
    raise CannotCall(
        f"no tiny call of {type(source.model).__qualname__} went through; name its inputs with --input and --channels."
        f" Its forward takes {inspect.signature(source.model.forward)}. It said: " + " | ".join(list(said)[:3])
    )


def _candidates(source: Source, given: dict[str, Any], channels: int | None, frames: int | None) -> Iterator[Inputs]:
    names = inspect.signature(source.model.forward).parameters
    dims = [source.dims] if source.dims else [2, 3]
    if frames is not None:
        dims = [3]
    latents = [
        (number, *((frames or FRAMES,) if dim == 3 else ()))
        for number in ((channels,) if channels else source.channels)
        for dim in dims
    ]
    widths = _widths(source.model)
    vectors = [None, *widths] if "y" in names and "y" not in given else [None]
    contexts = [0] if "context" in given else widths
    for vector, latent, context in itertools.product(vectors, latents, contexts):
        yield Inputs(latent, context, vector)


def _widths(model: torch.nn.Module) -> list[int]:
    """What its matrices take, those first whose names speak of text."""
    found = [
        (not any(part in name.lower() for part in TEXT_NAMES), module.weight.shape[1])
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "." not in name.partition(".")[2].partition(".")[2]
    ]
    return list(dict.fromkeys(width for _, width in sorted(found, key=lambda one: one[0])))


def _call(model: torch.nn.Module, inputs: Inputs, given: dict[str, Any]) -> Callable:
    parameters = inspect.signature(model.forward).parameters
    dtype = next((weight.dtype for weight in model.parameters() if weight.dtype in COMPUTED_IN), torch.float32)

    def call(options: dict, size: tuple[int, int], tokens: int) -> Any:
        letters = {"T": tokens, "H": size[0], "W": size[1]}

        def empty(*shape: Any) -> torch.Tensor:
            return torch.empty([letters.get(part, part) for part in shape], device="meta", dtype=dtype)

        first, second, *others = [name for name, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
        arguments = {first: empty(1, *inputs.latent, "H", "W"), second: empty(1)}
        if "context" in others or any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            arguments["context"] = empty(1, "T", inputs.context)
        if inputs.vector is not None:
            arguments["y"] = empty(1, inputs.vector)
        if "guidance" in others:
            arguments["guidance"] = empty(1)
        for name, value in given.items():
            arguments[name] = empty(*value) if isinstance(value, tuple) else letters.get(value, value)
        return model(**arguments, transformer_options=options)

    return call
