"""Ulysses' exchanges without a collective: each rank writes its rows straight into the memory of the others.

Three buffers take turns, so one barrier an exchange is enough: an attention needs up to three exchanges (q; k and v;
the output), and who writes into a buffer again has passed the barrier of the second after it, which every rank enters
after its last read of that buffer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from ..exchange.collectives import offsets
from ..exchange.symmetric_buffers import SymmetricBuffers
from ..exchange.wide_copy import copy_wide

BUFFERS = 3


class SymmetricExchange:
    """The exchanges of one Ulysses group, whose ranks make the same ones in the same order."""

    def __init__(self, group: dist.ProcessGroup, rank: int, size: int, device: torch.device):
        self._buffers = SymmetricBuffers(group, rank, size, device, BUFFERS)
        self.fits = self._buffers.fits

    def tokens_to_heads(
        self, tensors: Sequence[torch.Tensor], heads: Sequence[Sequence[int]], tokens: Sequence[int]
    ) -> list[torch.Tensor]:
        """As ulysses.tokens_to_heads. The results may be read until the second exchange after this one."""
        buffers, own = self._buffers, self._buffers.rank
        batch, _, local, dim = tensors[0].shape
        widths = [sum(per_rank) for per_rank in zip(*heads, strict=True)]
        shapes = [(sum(tokens), batch, width, dim) for width in widths]
        turn = self._next(shapes, tensors[0].dtype)
        start = sum(tokens[:own])
        for rank in (*buffers.others(), own):
            target = buffers.view(turn, rank, shapes[rank], tensors[0].dtype)[start : start + local]
            at = 0
            for tensor, split in zip(tensors, heads, strict=True):
                first, count = sum(split[:rank]), split[rank]
                copy_wide(target[:, :, at : at + count], tensor[:, first : first + count].permute(2, 0, 1, 3))
                at += count
        buffers.barrier(turn)
        whole = buffers.view(turn, own, shapes[own], tensors[0].dtype)
        return [part.permute(1, 2, 0, 3) for part in whole.split([split[own] for split in heads], dim=2)]

    def heads_to_tokens(self, out: torch.Tensor, heads: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """As ulysses.heads_to_tokens; a tensor of its own."""
        buffers, own = self._buffers, self._buffers.rank
        batch, _, channels = out.shape
        dim = channels // heads[own]
        shapes = [(batch, count, sum(heads) * dim) for count in tokens]
        turn = self._next(shapes, out.dtype)
        first = sum(heads[:own]) * dim
        begins = offsets(tokens)
        for rank in (*buffers.others(), own):
            target = buffers.view(turn, rank, shapes[rank], out.dtype)[:, :, first : first + channels]
            copy_wide(target, out[:, begins[rank] : begins[rank] + tokens[rank]])
        buffers.barrier(turn)
        return buffers.view(turn, own, shapes[own], out.dtype).clone()

    def _next(self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> int:
        return self._buffers.next(max(torch.Size(shape).numel() for shape in shapes), dtype)
