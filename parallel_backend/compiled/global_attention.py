"""Attention of blocks that call it without transformer_options, as the operator that a compiler does not look into."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

from .attention_op import LOCAL_THROUGH_OPERATOR, THROUGH_OPERATOR

_opened: set[Callable] = set()
_locally = False  # while a compiler traces: in a submodule whose attention stays local


def open_global(name: str) -> None:
    """Let a compiler take the attention function "module:name" as the operator. Elsewhere nothing changes."""
    module_name, _, function_name = name.partition(":")
    module = importlib.import_module(module_name)
    original = getattr(module, function_name)
    if original in _opened:
        return

    @functools.wraps(original)
    def opened(q, k, v, heads, *args, **kwargs):
        if torch.compiler.is_compiling() and not kwargs.get("transformer_options"):
            through = LOCAL_THROUGH_OPERATOR if _locally else THROUGH_OPERATOR
            return through(original, q, k, v, heads, *args, **kwargs)
        return original(q, k, v, heads, *args, **kwargs)

    _opened.add(opened)
    setattr(module, function_name, opened)


def attend_locally(module: torch.nn.Module) -> None:
    """Let a compiler know that the attention of this submodule is to a context that every rank has whole."""
    module.register_forward_pre_hook(_enter)
    module.register_forward_hook(_leave)


def _enter(module: torch.nn.Module, args: tuple) -> None:
    global _locally
    if torch.compiler.is_compiling():
        _locally = True


def _leave(module: torch.nn.Module, args: tuple, output: Any) -> None:
    global _locally
    if torch.compiler.is_compiling():
        _locally = False
