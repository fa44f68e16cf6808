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

    def number(self, number: int, made: Any) -> None:
        """`made` stands for the host's object of this number."""

    def model_patcher(self, identity: Any) -> Any:
        """A patcher of the model with this identity."""

    def model_part(self, identity: Any, path: str) -> Any:
        """The BaseModel with this identity, or what it has at a dotted path."""

    def module(self, key: bytes) -> torch.nn.Module:
        """A module that arrived by content, built once and kept while it is used."""

    def module_patcher(self, module: torch.nn.Module) -> Any:
        """A patcher of such a module."""

    def set_patcher_state(self, patcher: Any, state: dict[str, Any]) -> None:
        """The host patcher's state becomes that of one of the patchers above."""

    def node_class(self, cls: type, hidden: dict[str, Any]) -> type:
        """The class of a ComfyUI node as one execution of it has it, with what it knows of this execution."""

    def original(self, module_name: str, qualified_name: str) -> Any:
        """What ComfyUI's module defines under this name, whatever took its place."""


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
    with torch.inference_mode(False):  # torch then counts the changes that are made to it in place
        if inline:
            data = bytearray(source)
            flat = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
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


def numbered(number: int, make, arguments: tuple):
    """`make(*arguments)`, which the host knows by this number."""
    made = make(*arguments)
    _reader.get().number(number, made)
    return made


def same(obj):
    return obj


def fill_cell(cell, contents: tuple):
    cell.cell_contents = contents[0]


def model_patcher(identity):
    return _reader.get().model_patcher(identity)


def model_part(identity, path: str):
    return _reader.get().model_part(identity, path)


def module(key: bytes):
    return _reader.get().module(key)


def module_patcher(inner):
    return _reader.get().module_patcher(inner)


def set_patcher_state(patcher, state):
    _reader.get().set_patcher_state(patcher, state)


def node_class(cls: type, hidden: dict[str, Any]):
    return _reader.get().node_class(cls, hidden)


def original(module_name: str, qualified_name: str):
    return _reader.get().original(module_name, qualified_name)


def named(module_name: str, qualified_name: str):
    """A class or function of a module that is imported under its path, or the module itself."""
    module = sys.modules[module_name]
    return operator.attrgetter(qualified_name)(module) if qualified_name else module


def pass_through(executor, *args, **kwargs):
    """What the host's OUTER_SAMPLE wrapper becomes in a rank: nothing."""
    return executor(*args, **kwargs)
