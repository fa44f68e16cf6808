"""Attention over a sequence that is split over ranks: Ulysses inside, ring outside (arXiv 2405.07719)."""

from collections.abc import Callable

import torch

from ..exchange.collectives import SequenceGroups, TokenSplit, offsets
from .lse_attention import attention_with_lse
from .ring import Announced, KernelWithLse, ring_attention
from .ulysses import HeadSplit, heads_to_tokens, split_heads, tokens_to_heads
from .xfuser_adapter import XfuserUSP

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def sequence_parallel_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    groups: SequenceGroups,
    split_q: TokenSplit,
    split_kv: TokenSplit,
    kernel: Kernel,
    mask: torch.Tensor | None = None,
    kernel_with_lse: KernelWithLse | None = None,
    scale: float | None = None,
    xfuser: XfuserUSP | None = None,
    announced: Announced | None = None,
) -> torch.Tensor:
    """Attention of this rank's queries over the keys of all ranks of the sequence group.

    q [B, H, l, D], k and v [B, h, l_kv, D] (h divides H): this rank's tokens, position already applied, any strides.
    mask: None, or bool (True: may attend) or additive, [Lq, Lk], [B, Lq, Lk] or broadcastable to [B, H, Lq, Lk], over
    the whole sequences in rank-major order; the same on every rank.
    `kernel(q, k, v, mask)` → [B, L, heads*D] is the attention of one device. It sees whole sequences and a share of the
    heads, key/value heads dividing query heads, and applies `scale` itself. With ring > 1 its place is taken by
    `kernel_with_lse(q, k, v, mask, scale)` (see `ring_attention`; `attention_with_lse` when None), inside xfuser's USP
    where `xfuser` is given and can, unless the ranks reach each other's memory.
    announced: what `announce_keys` gave for k and v.
    Returns [B, l, H*D]. Raises ValueError when the heads or the lengths do not fit.
    """
    _check(q, k, v, groups, split_q, split_kv, mask)
    kernel_with_lse = kernel_with_lse or attention_with_lse
    if xfuser is not None and groups.ring_size > 1 and groups.direct is None:
        if xfuser.refusal(q, k, v, split_q, split_kv, mask, scale) is None:
            return xfuser(q, k, v, scale, kernel_with_lse)

    heads = split_heads(q.shape[1], k.shape[1], groups.ulysses_size, groups.ring_size)
    ring_row = slice(groups.ring_rank * groups.ulysses_size, (groups.ring_rank + 1) * groups.ulysses_size)
    tokens_q, tokens_kv = split_q.local[ring_row], split_kv.local[ring_row]
    if groups.ulysses_size > 1:
        q, k, v = _to_heads(q, k, v, heads, tokens_q, tokens_kv, groups)
        mask = own_heads(mask, heads, groups)
    if groups.ring_size == 1:
        out = kernel(q, k, v, mask)
    else:
        out = ring_attention(
            q,
            k,
            v,
            chunks=split_kv.chunks(groups.ulysses_size),
            groups=groups,
            mask=_own_rows(mask, split_q.span(ring_row.start, ring_row.stop)),
            scale=scale,
            kernel=kernel_with_lse,
            announced=announced,
        )
    if groups.ulysses_size > 1:
        out = heads_to_tokens(out, heads.query, tokens_q, groups)
    return out


def announce_keys(
    k: torch.Tensor, v: torch.Tensor, *, groups: SequenceGroups, split_kv: TokenSplit
) -> Announced | None:
    """Begin the exchange of keys and values [B, h, l_kv, D] that the next `sequence_parallel_attention` is called with,
    where that can go on beside other work: in a ring alone, whose ranks reach each other's memory. Else None.
    """
    ring = groups.direct
    if ring is None or groups.ulysses_size > 1 or not ring.fits_together(k, split_kv.local):
        return None
    return Announced(*ring.bring_together(k, v, split_kv.local), ring)


def _to_heads(q, k, v, heads: HeadSplit, tokens_q, tokens_kv, groups: SequenceGroups):
    if heads.kv_repeat > 1:
        k, v = k.repeat_interleave(heads.kv_repeat, dim=1), v.repeat_interleave(heads.kv_repeat, dim=1)
    if tokens_q == tokens_kv:
        return tokens_to_heads((q, k, v), (heads.query, heads.kv, heads.kv), tokens_q, groups)
    return [
        *tokens_to_heads((q,), (heads.query,), tokens_q, groups),
        *tokens_to_heads((k, v), (heads.kv, heads.kv), tokens_kv, groups),
    ]


def own_heads(mask: torch.Tensor | None, heads: HeadSplit, groups: SequenceGroups) -> torch.Tensor | None:
    if mask is None or mask.ndim < 4 or mask.shape[1] == 1:
        return mask
    return mask.narrow(1, offsets(heads.query)[groups.ulysses_rank], heads.query[groups.ulysses_rank])


def _own_rows(mask: torch.Tensor | None, rows: slice) -> torch.Tensor | None:
    """Cut to a ring rank's queries, as [B or 1, heads or 1, rows or 1, keys or 1]."""
    if mask is None:
        return None
    if mask.ndim == 2:
        mask = mask.unsqueeze(0)
    if mask.ndim == 3:
        mask = mask.unsqueeze(1)
    return mask if mask.shape[2] == 1 else mask[:, :, rows]


def _check(q, k, v, groups, split_q, split_kv, mask):
    """The lengths must be what the splits say, on every rank, or the exchange would mix tokens up or hang."""
    if k.shape != v.shape or q.shape[-1] != k.shape[-1] or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            "sequence parallel attention needs one dtype, one head size and keys shaped like values, got "
            + ", ".join(f"{name} {tuple(t.shape)} {t.dtype}" for name, t in (("q", q), ("k", k), ("v", v)))
        )
    for name, tensor, split in (("q", q, split_q), ("k", k, split_kv)):
        if len(split.local) != groups.size or tensor.shape[2] != split.local[groups.rank]:
            raise ValueError(
                f"rank {groups.rank} of {groups.size} holds {tensor.shape[2]} tokens of {name}, "
                f"the split is {split.local}"
            )
    if mask is None:
        return
    fits = (
        mask.ndim in (2, 3, 4)
        and mask.shape[-2] in (1, split_q.total)
        and mask.shape[-1] in (1, split_kv.total)
        and (mask.ndim < 4 or mask.shape[1] in (1, q.shape[1]))
    )
    if not fits:
        raise ValueError(
            f"mask {tuple(mask.shape)} does not fit {q.shape[1]} heads, {split_q.total} queries, {split_kv.total} keys"
        )
