"""A node's own attention that knows where each token and each head is, on a ModelCase, whole and sharded in a rank."""

from __future__ import annotations

import torch

OVERRIDE = "optimized_attention_override"


def by_place(function, q, k, v, heads, *args, **kwargs):
    """Queries, keys and values are each scaled by their place in the sequence, queries by their head too."""
    dim = 2 if kwargs.get("skip_reshape") else 1
    q, k, v = (tensor * _ramp(tensor, dim, slope) for tensor, slope in ((q, 0.4), (k, -0.3), (v, 0.5)))
    if q.ndim == 4:
        q = q * _ramp(q, 1 if dim == 2 else 2, 0.3)
    else:
        by_head = q.unflatten(-1, (heads, -1))
        q = (by_head * _ramp(by_head, 2, 0.3)).flatten(-2)
    return function(q, k, v, heads, *args, **kwargs)


def _ramp(tensor: torch.Tensor, dim: int, slope: float) -> torch.Tensor:
    shape = [1] * tensor.ndim
    shape[dim] = -1
    return (1 + slope * torch.linspace(0, 1, tensor.shape[dim])).to(tensor).view(shape)


class Overridden:
    """A ModelCase whose attention is `by_place`."""

    def __init__(self, case):
        self.name = f"{case.name}, attention by place"
        self.model = case.model
        self._case = case

    def inputs(self):
        args, kwargs = self._case.inputs()
        options = {**kwargs.get("transformer_options", {}), OVERRIDE: by_place}
        return args, {**kwargs, "transformer_options": options}
