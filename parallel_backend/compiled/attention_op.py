"""ComfyUI's attention as one operator that a compiler does not look into.

A compiled block calls `xdit::attention` where it would call ComfyUI's attention function; the operator makes that very
call, with the transformer_options of the model call in progress: exchange, overrides and kernels work as they do
without compiling, and a block is compiled as one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ldm.modules.attention
import torch

from ..sharding.engine.attention_override import ShardedAttention
from ..sharding.foreign.kernel_choice import OVERRIDE

_LIBRARY = torch.library.Library("xdit", "FRAGMENT")
_LIBRARY.define(
    "attention(Tensor q, Tensor k, Tensor v, int heads, Tensor? mask, str function, str apart,"
    " ScalarType? attn_precision, bool skip_reshape, bool skip_output_reshape, float? scale, bool enable_gqa,"
    " bool low_precision_attention, Tensor? after=None) -> Tensor"
)
_LIBRARY.define("announce_keys(Tensor k, Tensor v) -> Tensor")
_options: list[dict[str, Any]] = []


@contextmanager
def attention_options(options: dict[str, Any]) -> Iterator[None]:
    """The transformer_options with which the operator calls attention while the context lasts."""
    _options.append(options)
    try:
        yield
    finally:
        _options.pop()


def _through_operator(apart: str) -> Callable:
    def override(
        function, q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False,
        scale=None, enable_gqa=False, low_precision_attention=True, transformer_options=None,
        _inside_attn_wrapper=True,
    ):  # fmt: skip
        if skip_reshape:
            q, k = _token_major(q), _token_major(k)
        return torch.ops.xdit.attention(
            q, k, v, heads, mask, function.__name__, apart, attn_precision, skip_reshape, skip_output_reshape, scale,
            enable_gqa, low_precision_attention,
        )  # fmt: skip

    return override


def _token_major(tensor: torch.Tensor) -> torch.Tensor:
    """[B, H, L, D] that lies in memory as [B, L, H, D]: the kernel that makes it writes it so, and attention's output,
    which takes over the layout of q, needs no copy to be [B, L, H*D].
    """
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


# How an attention stands apart from those over all tokens: over a context that every rank has whole, or by queries that
# every rank has whole over keys that are made whole for it.
LOCAL, WHOLE_QUERIES = "local", "whole queries"
# What a compiled block finds in transformer_options in the place of the call's own override, and such submodules of it.
THROUGH_OPERATOR = _through_operator("")
LOCAL_THROUGH_OPERATOR = _through_operator(LOCAL)
WHOLE_QUERIES_THROUGH_OPERATOR = _through_operator(WHOLE_QUERIES)


def _attention(
    q, k, v, heads, mask, function, apart, attn_precision, skip_reshape, skip_output_reshape, scale, enable_gqa,
    low_precision_attention, after=None,
):  # fmt: skip
    """`after`: what has to be launched before, and nothing else."""
    options = _options[-1]
    override = options.get(OVERRIDE)
    if apart and isinstance(override, ShardedAttention):
        options = {**options, OVERRIDE: override.local if apart == LOCAL else override.with_whole_queries}
    extra = {"scale": scale} if scale is not None else {}
    if enable_gqa:
        extra["enable_gqa"] = True
    if not low_precision_attention:
        extra["low_precision_attention"] = False
    call = getattr(comfy.ldm.modules.attention, function)
    out = call(
        q, k, v, heads, mask=mask, attn_precision=attn_precision, skip_reshape=skip_reshape,
        skip_output_reshape=skip_output_reshape, transformer_options=options, **extra,
    )  # fmt: skip
    return out.contiguous()


def _shape(
    q, k, v, heads, mask, function, apart, attn_precision, skip_reshape, skip_output_reshape, *_
):  # fmt: skip
    if q.ndim == 3:  # [B, L, H*D]
        batch, length, size = q.shape
    elif skip_reshape:  # [B, H, L, D]
        batch, length, size = q.shape[0], q.shape[2], heads * v.shape[-1]
    else:  # [B, L, H, D]
        batch, length, size = q.shape[0], q.shape[1], heads * v.shape[-1]
    if skip_output_reshape:
        return q.new_empty((batch, heads, length, size // heads))
    return q.new_empty((batch, length, size))


def _announce_keys(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """k, v [B, h, L, D] of the operator's next call. The output tells a compiler what comes after this."""
    override = _options[-1].get(OVERRIDE)
    if isinstance(override, ShardedAttention):
        override.announce(k, v)
    return k.new_empty(1)


def _shape_of_announcement(k, v):
    return k.new_empty(1)


_LIBRARY.impl("attention", _attention, "CompositeExplicitAutograd")
_LIBRARY.impl("attention", _shape, "Meta")
_LIBRARY.impl("announce_keys", _announce_keys, "CompositeExplicitAutograd")
_LIBRARY.impl("announce_keys", _shape_of_announcement, "Meta")
