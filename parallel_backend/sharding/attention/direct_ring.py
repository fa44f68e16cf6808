"""A ring whose keys and values are not passed on: each rank writes its own straight into the memory of all others,
beside the kernels of this rank, which meanwhile attends to its own, or computes what does not wait for attention.

Two buffers take turns. Who writes into a buffer again has passed the barrier of the use before, which every rank enters
after its last read of that buffer: all of an exchange runs on one stream of its own, attention to what came included,
and that stream follows what was launched outside before each exchange, attention to what was brought together included.
Between two model calls, which may begin with the buffer that the last one ended with, lies the gather of the image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from ..exchange.symmetric_buffers import SymmetricBuffers
from ..exchange.wide_copy import copy_wide

BUFFERS = 2
FIRST = -1  # a stream's priority: its small kernels do not wait for the large ones of others


class DirectRing:
    """The keys and values of one ring group, whose ranks exchange theirs in the same order."""

    def __init__(self, group: dist.ProcessGroup, rank: int, size: int, device: torch.device):
        self._buffers = SymmetricBuffers(group, rank, size, device, BUFFERS)
        self._stream = torch.cuda.Stream(device, priority=FIRST) if device.type == "cuda" else None

    def fits(self, k: torch.Tensor, lengths: Sequence[int]) -> bool:
        """k [B, h, l, D]; `lengths[r]`: tokens of ring rank r. The same on all ranks."""
        batch, heads, _, dim = k.shape
        return self._buffers.fits(_elements(batch, heads, dim, lengths), k.dtype)

    def exchange(
        self, k: torch.Tensor, v: torch.Tensor, lengths: Sequence[int]
    ) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
        """(ring rank, its keys, its values) of all others, for use within `beside`, and until the next exchange.

        k and v are this rank's; all are [B, l, h, D], contiguous.
        """
        buffers, dtype = self._buffers, k.dtype
        batch, _, heads, dim = k.shape
        sizes = [batch * length * heads * dim for length in lengths]
        turn = buffers.next(_elements(batch, heads, dim, lengths), dtype)

        def places(receiver: int, owner: int) -> tuple[torch.Tensor, torch.Tensor]:
            """For the keys and the values of `owner`, in the memory of `receiver`."""
            start = 2 * sum(size for rank, size in enumerate(sizes[:owner]) if rank != receiver)
            shape = (batch, lengths[owner], heads, dim)
            keys = buffers.view(turn, receiver, shape, dtype, start)
            return keys, buffers.view(turn, receiver, shape, dtype, start + sizes[owner])

        for rank in buffers.others():
            for target, own in zip(places(rank, buffers.rank), (k, v), strict=True):
                target.copy_(own)
        buffers.barrier(turn)
        return [(rank, *places(buffers.rank, rank)) for rank in buffers.others()]

    def fits_together(self, k: torch.Tensor, lengths: Sequence[int]) -> bool:
        """As `fits`, for `bring_together`."""
        batch, heads, _, dim = k.shape
        return batch == 1 and min(lengths) > 0 and self._buffers.fits(2 * heads * dim * sum(lengths), k.dtype)

    def bring_together(
        self, k: torch.Tensor, v: torch.Tensor, lengths: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """k, v [1, h, l, D] of this rank → keys and values [1, h, L, D] of all, in ring order, which are there after
        `join` and until the next exchange.
        """
        buffers, dtype = self._buffers, k.dtype
        _, heads, _, dim = k.shape
        total, start = sum(lengths), sum(lengths[: buffers.rank])
        self.follow()
        with self.beside():
            turn = buffers.next(2 * heads * dim * total, dtype)
            whole = [
                buffers.view(turn, buffers.rank, (1, total, heads, dim), dtype, at * heads * dim) for at in (0, total)
            ]
            for at, tensor, all_of_them in zip((0, total), (k, v), whole, strict=True):
                own = all_of_them[:, start : start + lengths[buffers.rank]]
                copy_wide(own, tensor.transpose(1, 2))
                for rank in buffers.others():
                    buffers.view(turn, rank, tuple(own.shape), dtype, (at + start) * heads * dim).copy_(own)
            buffers.barrier(turn)
        keys, values = (tensor.transpose(1, 2) for tensor in whole)
        return keys, values

    def follow(self) -> None:
        """What runs in `beside` from now on comes after what this rank has launched so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """On a GPU, beside what is launched outside. Call `join` before the results are used."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """What is launched from now on comes after all of `beside`."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)


def _elements(batch: int, heads: int, dim: int, lengths: Sequence[int]) -> int:
    """What the fullest buffer holds: keys and values of all ranks but the one with the fewest."""
    return 2 * batch * heads * dim * (sum(lengths) - min(lengths))
