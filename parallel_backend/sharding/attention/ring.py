"""Ring attention: keys and values travel from rank to rank, partial results are merged by log-sum-exp (2310.01889).

Exact for chunks of any length and for masks. Chunks are on their way while others are computed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from ..exchange.collectives import SequenceGroups, TokenSplit, start_shift
from ..exchange.wide_copy import copy_wide
from ..exchange.written_directly import RingExchange
from .lse_attention import attention_with_lse
from .merge import merge

# Below this the mask's value swallows any score: fp32 scores differ by far less than its last digit.
_SWALLOWS_SCORES = -1e30
_WHOLE_ROW_OFF = -1e4

KernelWithLse = Callable[..., tuple[torch.Tensor, torch.Tensor]]
Part = tuple[torch.Tensor, torch.Tensor] | None
"""Attention over some of the keys and its log-sum-exp; None without keys or queries."""


class Announced(NamedTuple):
    """Keys and values [B, h, L, D] of all ring ranks, on their way: there once `ring` was joined."""

    keys: torch.Tensor
    values: torch.Tensor
    ring: RingExchange


def ring_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    chunks: TokenSplit,
    groups: SequenceGroups,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
    kernel: KernelWithLse = attention_with_lse,
    announced: Announced | None = None,
) -> torch.Tensor:
    """Attention of this ring rank's queries over the keys of all ring ranks.

    q [B, H, Lq, D]; k, v [B, h, chunks.local[ring_rank], D] (h divides H); mask [.., .., Lq or 1, all keys or 1] for
    these queries, keys in ring order. `kernel(q, k, v, mask, scale)` is `attention_with_lse` or one that keeps its
    promises, those about fully masked rows included. `announced`: what `usp.announce_keys` gave for k and v.
    Returns [B, Lq, H*D].
    """
    if announced is not None:
        announced.ring.join()
        return kernel(q, announced.keys, announced.values, mask, scale)[0].transpose(1, 2).flatten(2)
    if mask is not None and mask.dtype != torch.bool:
        q, mask = _settle_masked_rows(q, mask)

    def attend(owner: int, keys: torch.Tensor, values: torch.Tensor) -> Part:
        if keys.shape[2] == 0 or q.shape[2] == 0:
            return None
        block = None if mask is None else _columns(mask, chunks.span(owner, owner + 1))
        return kernel(q, keys, values, block, scale)

    parts: Iterable[Part]
    if groups.direct is not None and groups.direct.fits(k, chunks.local):
        parts = _direct(k, v, chunks.local, groups.ring_rank, groups.direct, attend)
    else:
        parts = (attend(owner, *kv) for owner, kv in _travelling(torch.stack((k, v)), chunks.local, groups))
    whole: Part = None
    left = sum(length > 0 for length in chunks.local)
    for part in filter(None, parts):
        left -= 1
        whole = part if whole is None else merge(*whole, *part, torch.float32 if left else q.dtype)
    if whole is None:
        return q.new_zeros(q.shape[0], q.shape[2], q.shape[1] * v.shape[3])
    return whole[0].to(q.dtype).transpose(1, 2).flatten(2)


def _direct(
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: Sequence[int],
    rank: int,
    direct: RingExchange,
    attend: Callable[..., Part],
) -> list[Part]:
    """This rank's keys and values are written to the others while it attends to them, then those of the others."""
    direct.follow()
    with direct.beside():
        others = direct.exchange(_token_major(k), _token_major(v), lengths)
    parts = [attend(rank, k, v)]
    with direct.beside():
        parts += [attend(owner, keys.transpose(1, 2), values.transpose(1, 2)) for owner, keys, values in others]
    direct.join()
    return parts


def _token_major(tensor: torch.Tensor) -> torch.Tensor:
    """[B, h, l, D] → [B, l, h, D], contiguous."""
    tensor = tensor.transpose(1, 2)
    if tensor.is_contiguous():
        return tensor
    whole = tensor.new_empty(tensor.shape)
    copy_wide(whole, tensor)
    return whole


def _travelling(kv: torch.Tensor, lengths: Sequence[int], groups: SequenceGroups) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (ring rank whose chunk it is, chunk [2, B, h, l, D]) for every chunk, this rank's own first."""
    for step in range(groups.ring_size):
        owner = (groups.ring_rank - step) % groups.ring_size
        last = step + 1 == groups.ring_size
        if not last:
            coming = kv.new_empty(*kv.shape[:3], lengths[owner - 1], kv.shape[4])
            works = start_shift(kv, coming, groups.ring)
        yield owner, kv
        if not last:
            for work in works:
                work.wait()
            kv = coming


def _columns(mask: torch.Tensor, keys: slice) -> torch.Tensor:
    return mask if mask.shape[-1] == 1 else mask[..., keys]


def _settle_masked_rows(q: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Make rows that an additive mask switches off with a finite number (finfo.min, -65504) mergeable.

    Unsharded, such a row is still a softmax over what the rounding of scores + mask leaves. Its log-sum-exp is so large
    that log(number of keys) is lost in it, so the merge would weigh chunks wrongly. Softmax does not change when a row
    is shifted: shift it to 0, and where the mask swallowed the scores, drop them.
    """
    top = mask.amax(dim=-1, keepdim=True)
    off = (top < _WHOLE_ROW_OFF) & torch.isfinite(top)
    q = q.masked_fill(off & (top < _SWALLOWS_SCORES), 0)
    return q, torch.where(off, mask - top, mask)
