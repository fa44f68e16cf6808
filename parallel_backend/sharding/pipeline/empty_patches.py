"""Blocks run as ComfyUI wrote them in patches that hold no token of one of their streams.

Nearly all of torch takes tensors without rows. What does not is made to here, also inside a compiled block.
"""

from __future__ import annotations

import contextlib
import functools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator

import torch

from ..plan.modules import replaced

_linears: weakref.WeakSet[type] = weakref.WeakSet()


@contextlib.contextmanager
def shapes_without_tokens() -> Iterator[None]:
    """x.view(B, 0, heads, -1) has the shape that any other length would give it; torch finds -1 ambiguous there.

    Tensor's own methods are replaced: a TorchFunctionMode was seen to cost a block a quarter more time of the CPU, or
    almost half.
    """
    with replaced(torch.Tensor, "view", _view), replaced(torch.Tensor, "reshape", _reshape):
        yield


def _resolving(method: Callable) -> Callable:
    @functools.wraps(method)
    def resolved(tensor, *shape, **kwargs):
        if 0 in shape and -1 in shape:
            known = math.prod([size for size in shape if size > 0])
            rest = math.prod([size for size in tensor.shape if size != 0]) // known
            shape = tuple([rest if size == -1 else size for size in shape])
        return method(tensor, *shape, **kwargs)

    return resolved


_view, _reshape = _resolving(torch.Tensor.view), _resolving(torch.Tensor.reshape)


def spare_linears(modules: Iterable[torch.nn.Module]) -> None:
    """Linear layers of these classes give an empty output for an empty input without a look at their weights.

    Quantised ones round the input by its largest value, others cast or patch the weights first. ComfyUI makes these
    classes; they stay so, or what was compiled with them would be compiled anew for each request.
    """
    for module in modules:
        kind = type(module)
        if hasattr(module, "out_features") and kind is not torch.nn.Linear and kind not in _linears:
            _linears.add(kind)
            kind.forward = _spared(kind.forward)


def _spared(original: Callable) -> Callable:
    @functools.wraps(original)
    def forward(self, input, *args, **kwargs):
        if input.numel() == 0:
            return input.new_empty((*input.shape[:-1], self.out_features))
        return original(self, input, *args, **kwargs)

    return forward
