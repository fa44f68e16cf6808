"""Attention of a patch's queries over the whole sequence."""

from __future__ import annotations

import torch

from ..attention.ulysses import split_heads
from ..attention.usp import Kernel, own_heads, sequence_parallel_attention
from ..engine.gather import gather_keys
from ..engine.model_call import Call
from ..plan.token_layout import Segments
from .keys_values import ConditionCache, Span


def attention_with_cache(
    call: Call,
    cache: ConditionCache,
    block: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    segments: Segments,
    kernel: Kernel,
) -> torch.Tensor:
    """As sequence_parallel_attention, over this patch's tokens and what `cache` holds of the others for `block`.

    q, k, v [B, H, l, D]: this rank's tokens of the patch, all heads; `mask` as the model gives it. `kernel` sees keys
    and values in the model's order of tokens, this patch's among them. Returns [B, l, H*D].
    """
    sp, split, spans = call.session.sp, call.split(segments), _spans(call, segments)
    place, total = (block, call.attention_calls), call.layout.total(segments)
    of_keys = None
    if mask is not None and call.block.mask == "local":
        of_keys = gather_keys(mask, split, sp)
    elif mask is not None:
        heads = split_heads(q.shape[1], k.shape[1], sp.ulysses_size)
        mask = own_heads(_query_rows(call, mask, spans), heads, sp)

    def with_cache(q, k, v, _):
        kept = cache.attention(place, k, v, total)
        kept.write(k, v, spans)
        if of_keys is not None:
            kept.write_mask(of_keys, spans)
        return kernel(q, kept.keys, kept.values, mask if of_keys is None else kept.mask)

    return sequence_parallel_attention(q, k, v, groups=sp, split_q=split, split_kv=split, kernel=with_cache)


def _spans(call: Call, segments: Segments) -> list[Span]:
    """Where the rows of the sequence group's ranks, one after the other, lie in the model's order."""
    spans, here = [], 0
    for part in call.parts:
        for start, end in call.layout.spans(segments, part):
            if start < end:
                spans.append((here, start, end - start))
                here += end - start
    return spans


def _query_rows(call: Call, mask: torch.Tensor, spans: list[Span]) -> torch.Tensor:
    """The rows of these queries of a mask [..., L or 1, L or 1] over the whole sequence."""
    if mask.shape[-2] == 1:
        return mask

    def rows() -> torch.Tensor:
        numbers = [torch.arange(there, there + count, device=mask.device) for _, there, count in spans]
        return mask.index_select(-2, torch.cat(numbers))

    return call.remember("query rows", mask, rows)
