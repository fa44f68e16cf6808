"""What a pickled request calls while a rank reads it. Each function here is named inside the stream.

A rank sets the context (`reading`) around `pickle.loads`; the host only refers to these functions.
"""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Protocol

import torch


class Reader(Protocol):
    """What a rank must offer to read a request."""

    device: torch.device

    def blob(self, digest: bytes) -> torch.Tensor:
        """A flat uint8 CPU tensor that arrived before."""

    def model_patcher(self, identity: Any, state: dict[str, Any]) -> Any:
        """A patcher of the model with this identity, carrying the host patcher's state."""

    def base_model(self, identity: Any) -> Any:
        """The BaseModel with this identity."""

    def module(self, key: bytes) -> torch.nn.Module:
        """A module that arrived by content, built once and kept while it is used."""

    def module_patcher(self, module: torch.nn.Module, state: dict[str, Any]) -> Any:
        """A patcher of such a module, carrying the host patcher's state."""


_reader: ContextVar[Reader] = ContextVar("xdit_reader")


@contextlib.contextmanager
def reading(reader: Reader) -> Iterator[None]:
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


def tensor(source: bytes, inline: bool, dtype: torch.dtype, shape: tuple, accelerator: bool, weight: bool):
    """A tensor of `shape` from its bytes or its digest; `accelerator`: it lay on a GPU, so it goes to this rank's.

    A `weight` is handed out as it lies in shared memory; anything else is copied, because samplers write in place.
    """
    reader = _reader.get()
    if inline:
        flat = torch.frombuffer(bytearray(source), dtype=torch.uint8) if source else torch.empty(0, dtype=torch.uint8)
    else:
        flat = reader.blob(source)
    value = flat.view(dtype).reshape(shape)
    if accelerator and reader.device.type != "cpu":
        return value.to(reader.device)
    return value if weight or inline else value.clone()


def parameter(data: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(data, requires_grad=False)


def device(kind: str) -> torch.device:
    """ComfyUI's accelerator becomes this rank's own; cpu and meta stay."""
    return torch.device(kind) if kind in ("cpu", "meta") else _reader.get().device


def model_patcher(identity, state):
    return _reader.get().model_patcher(identity, state)


def base_model(identity):
    return _reader.get().base_model(identity)


def module(key: bytes):
    return _reader.get().module(key)


def module_patcher(inner, state):
    return _reader.get().module_patcher(inner, state)


def named(module_name: str, qualified_name: str):
    """A class or function of a module that is imported under its path, or the module itself."""
    module = sys.modules[module_name]
    return operator.attrgetter(qualified_name)(module) if qualified_name else module


def pass_through(executor, *args, **kwargs):
    """What the host's OUTER_SAMPLE wrapper becomes in a rank: nothing."""
    return executor(*args, **kwargs)
