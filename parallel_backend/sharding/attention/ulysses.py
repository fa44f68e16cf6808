"""Ulysses: trade a share of the tokens of all heads for all tokens of a share of the heads (arXiv 2309.14509).

The wire format is token-major, [tokens, B, heads of q | k | v, D]. So what arrives from the ranks, one after the other,
is already the whole sequence, and q, k and v are views of it: nothing is unpacked. With B = 1 the attention's output
is sent as it lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..exchange.collectives import SequenceGroups, exchange, offsets, split_evenly
from ..exchange.wide_copy import copy_wide
from ..exchange.written_directly import HeadExchange


@dataclass(frozen=True)
class HeadSplit:
    """Heads of each Ulysses rank. Key/value heads are first repeated `kv_repeat` times each (grouped queries)."""

    query: tuple[int, ...]
    kv: tuple[int, ...]
    kv_repeat: int


def split_heads(query_heads: int, kv_heads: int, ulysses: int, ring: int = 1) -> HeadSplit:
    """Cut heads over `ulysses` ranks as evenly as they go.

    With fewer key/value heads than query heads, whole groups of query heads stay with their key/value head; with fewer
    key/value heads than ranks, each is repeated the fewest times that gives every rank one.
    Raises ValueError when there are more ranks than query heads, or when the groups are not whole.
    """
    if query_heads % kv_heads:
        raise ValueError(f"{query_heads} query heads cannot share {kv_heads} key/value heads evenly")
    if ulysses > query_heads:
        size = ulysses * ring
        fits = [f"ulysses {u} × ring {size // u}" for u in range(query_heads, 0, -1) if size % u == 0]
        raise ValueError(
            f"ulysses {ulysses} needs at least {ulysses} attention heads, this attention has {query_heads}: "
            f"use {' or '.join(fits)}"
        )
    group = query_heads // kv_heads
    repeat = next(r for r in range(1, group + 1) if group % r == 0 and kv_heads * r >= ulysses)
    kv = split_evenly(kv_heads * repeat, ulysses)
    return HeadSplit(query=tuple(n * (group // repeat) for n in kv), kv=kv, kv_repeat=repeat)


def tokens_to_heads(
    tensors: Sequence[torch.Tensor],
    heads: Sequence[Sequence[int]],
    tokens: Sequence[int],
    groups: SequenceGroups,
) -> list[torch.Tensor]:
    """Exchange [B, H_i, l, D] (all heads, own tokens) for [B, h_i, L, D] (own heads, all tokens), in one collective.

    `heads[i][r]`: heads of tensor i that go to Ulysses rank r; `tokens[r]`: tokens that Ulysses rank r holds, in the
    order in which they are put together. The tensors share B, l, D and dtype and may have any strides. The results
    are views of one buffer, contiguous in D only.
    """
    batch, _, local, dim = tensors[0].shape
    width = [sum(per_rank) for per_rank in zip(*heads, strict=True)]
    direct = _direct_exchange(groups, sum(tokens) * batch * max(width) * dim, tensors[0].dtype)
    if direct is not None:
        return direct.tokens_to_heads(tensors, heads, tokens)
    own = [split[groups.ulysses_rank] for split in heads]
    send = _pack_even(tensors, own) if len(set(zip(*heads, strict=True))) == 1 else _pack(tensors, heads)
    recv = exchange(
        send,
        [local * batch * w * dim for w in width],
        [n * batch * sum(own) * dim for n in tokens],
        groups.ulysses,
    )
    recv = recv.view(sum(tokens), batch, sum(own), dim)
    return [part.permute(1, 2, 0, 3) for part in recv.split(own, dim=2)]


def heads_to_tokens(
    out: torch.Tensor, heads: Sequence[int], tokens: Sequence[int], groups: SequenceGroups
) -> torch.Tensor:
    """Exchange [B, L, h*D] (own heads, all tokens) for [B, l, H*D] (all heads, own tokens)."""
    batch, _, channels = out.shape
    rank, size = groups.ulysses_rank, groups.ulysses_size
    local, dim = tokens[rank], channels // heads[rank]
    direct = _direct_exchange(groups, max(tokens) * batch * sum(heads) * dim, out.dtype)
    if direct is not None:
        return direct.heads_to_tokens(out, heads, tokens)
    recv_sizes = [local * batch * n * dim for n in heads]
    send = out.transpose(0, 1).contiguous().view(-1)
    recv = exchange(send, [n * batch * channels for n in tokens], recv_sizes, groups.ulysses)
    if len(set(heads)) == 1:
        result = out.new_empty(batch, local, size, channels)
        copy_wide(result, recv.view(size, local, batch, channels).permute(2, 1, 0, 3))
        return result.view(batch, local, size * channels)
    pieces = [piece.view(local, batch, n * dim) for piece, n in zip(recv.split(recv_sizes), heads, strict=True)]
    return torch.cat([piece.transpose(0, 1) for piece in pieces], dim=2)


def _direct_exchange(groups: SequenceGroups, elements: int, dtype: torch.dtype) -> HeadExchange | None:
    """What takes the collective's place for this many elements a rank, if anything does."""
    symmetric = groups.symmetric
    return symmetric if symmetric is not None and symmetric.fits(elements, dtype) else None


def _pack_even(tensors: Sequence[torch.Tensor], heads: Sequence[int]) -> torch.Tensor:
    """[ranks, l, B, heads, D], flat: one copy for each tensor."""
    batch, all_heads, local, dim = tensors[0].shape
    ranks = all_heads // heads[0]
    send = tensors[0].new_empty(ranks, local, batch, sum(heads), dim)
    for tensor, at, n in zip(tensors, offsets(heads), heads, strict=True):
        copy_wide(send[:, :, :, at : at + n], tensor.unflatten(1, (ranks, n)).permute(1, 3, 0, 2, 4))
    return send.view(-1)


def _pack(tensors: Sequence[torch.Tensor], heads: Sequence[Sequence[int]]) -> torch.Tensor:
    """[l, B, heads of the rank, D] for each rank, flat, one after the other."""
    batch, _, local, dim = tensors[0].shape
    width = [sum(per_rank) for per_rank in zip(*heads, strict=True)]
    spans = [[slice(at, at + n) for at, n in zip(offsets(split), split, strict=True)] for split in heads]
    send = tensors[0].new_empty(local * batch * sum(width) * dim)
    for rank, block in enumerate(send.split([local * batch * w * dim for w in width])):
        parts = [tensor[:, span[rank]].permute(2, 0, 1, 3) for tensor, span in zip(tensors, spans, strict=True)]
        torch.cat(parts, dim=2, out=block.view(local, batch, width[rank], dim))
    return send
