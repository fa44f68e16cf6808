"""Attention overrides in the ways that node packs use."""

import torch
from comfy.ldm.modules.attention import attention_pytorch

from .models import node


def with_override(model, override):
    m = model.clone()
    m.model_options["transformer_options"]["optimized_attention_override"] = override
    return (m,)


@node(step=("FLOAT", {"default": 0.4}))
class ForeignHeadScales:
    """The queries of head i are times 1 + i * step: needs to know which head is which."""

    def make(self, model, step):
        def override(function, q, k, v, heads, *args, **kwargs):
            if kwargs.get("skip_reshape"):
                scales = 1 + step * torch.arange(q.shape[1], dtype=q.dtype, device=q.device)
                q = q * scales[:, None, None]
            else:
                scales = 1 + step * torch.arange(heads, dtype=q.dtype, device=q.device)
                q = (q.unflatten(-1, (heads, -1)) * scales[:, None]).flatten(-2)
            return function(q, k, v, heads, *args, **kwargs)

        return with_override(model, override)


@node()
class ForeignKernel:
    """Only chooses what computes attention, as ComfyUI's Model Attention Backend does."""

    def make(self, model):
        def override(function, *args, **kwargs):
            return attention_pytorch(*args, **kwargs)

        return with_override(model, override)


@node()
class ForeignCountedAttention:
    """Every third attention is cooler: counted by a variable that lives as long as the run."""

    def make(self, model):
        count = 0

        def override(function, q, k, v, heads, *args, **kwargs):
            nonlocal count
            count += 1
            return function(q * (0.5 if count % 3 == 0 else 1.0), k, v, heads, *args, **kwargs)

        return with_override(model, override)


@node(strength=("FLOAT", {"default": 0.7}))
class ForeignQueryPosition:
    """The queries of the first half of the sequence are hotter, in self-attention and in cross-attention."""

    def make(self, model, strength):
        def override(function, q, k, v, heads, *args, **kwargs):
            dim = 2 if kwargs.get("skip_reshape") else 1
            place = torch.arange(q.shape[dim], device=q.device) < q.shape[dim] // 2
            shape = [1] * q.ndim
            shape[dim] = -1
            factors = torch.where(place, strength, 1.0).to(q.dtype).view(shape)
            return function(q * factors, k, v, heads, *args, **kwargs)

        return with_override(model, override)


@node()
class ForeignNestedAttention:
    """Calls attention once more itself, with the options that it got, as adapters do."""

    def make(self, model):
        def override(function, q, k, v, heads, *args, **kwargs):
            out = function(q, k, v, heads, *args, **kwargs)
            again = attention_pytorch(q, k.roll(1, -2), v, heads, *args, **kwargs)
            return out + 0.3 * again

        return with_override(model, override)
