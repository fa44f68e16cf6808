"""Which tokens each sequence rank holds: every segment is split evenly by itself, so a rank holds [txt_r, img_r].

Under PipeFusion they hold so what a patch has of each segment, one patch after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..exchange.collectives import TokenSplit, split_evenly
from .errors import ShardingError
from .patch_lengths import patch_lengths

Segments = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Lengths of the segments of one model call, the one that comes out of the model last, split over `parts` ranks;
    `rank` is this one. With more than one of `patches` a part is what a rank holds of a patch: those of the first patch
    come first.
    """

    lengths: tuple[tuple[str, int], ...]
    parts: int
    rank: int
    patches: int = 1

    @cached_property
    def _splits(self) -> dict[str, tuple[int, ...]]:
        ranks = self.parts // self.patches
        names, lengths = zip(*self.lengths, strict=True)
        return {
            name: tuple(share for length in cut for share in split_evenly(length, ranks))
            for name, cut in zip(names, patch_lengths(lengths, self.patches, ranks), strict=True)
        }

    def total(self, segments: Segments) -> int:
        return sum(length for name, length in self.lengths if name in segments)

    def split(self, segments: Segments) -> TokenSplit:
        """Tokens per rank when `segments` lie one after the other in each rank."""
        if segments not in self._token_splits:
            self._token_splits[segments] = self._make_split(segments)
        return self._token_splits[segments]

    @cached_property
    def _token_splits(self) -> dict[Segments, TokenSplit]:
        return {}

    def _make_split(self, segments: Segments) -> TokenSplit:
        sizes = [self._splits[name] for name in segments]
        return TokenSplit(tuple(sum(part) for part in zip(*sizes, strict=True)))

    def spans(self, segments: Segments, rank: int) -> list[tuple[int, int]]:
        """The rows [start, end) of the whole (segments one after the other) that `rank` holds, in its local order."""
        spans, offset, lengths = [], 0, dict(self.lengths)
        for name in segments:
            sizes = self._splits[name]
            start = offset + sum(sizes[:rank])
            spans.append((start, start + sizes[rank]))
            offset += lengths[name]
        return spans

    def take(self, whole: torch.Tensor, segments: Segments, dim: int) -> torch.Tensor:
        """This rank's rows of `whole` along `dim`, as a tensor of its own."""
        parts = [whole.narrow(dim, start, end - start) for start, end in self.spans(segments, self.rank)]
        return torch.cat(parts, dim) if len(parts) > 1 else parts[0].clone(memory_format=torch.contiguous_format)

    def take_ranges(self, ranges: list[tuple], segments: Segments) -> list[tuple]:
        """(start, end, ...) over the whole → the same rows counted locally; `end` may be None for the end.

        What follows the bounds stays, but for a tensor with one row for each row of the range: it keeps this rank's.
        """
        total, local, offset = self.total(segments), [], 0
        for start, end in self.spans(segments, self.rank):
            for first, last, *rest in ranges:
                last = total if last is None else last
                low, high = max(start, first), min(end, last)
                if low < high:
                    kept = (_rows_of(item, last - first, low - first, high - first) for item in rest)
                    local.append((low - start + offset, high - start + offset, *kept))
            offset += end - start
        return local

    def rank_major(self, segments: Segments, device: torch.device) -> torch.Tensor:
        """Index that puts whole rows into the order in which the ranks hold them: rank 0's, then rank 1's, ..."""
        rows = [
            torch.arange(start, end, device=device)
            for rank in range(self.parts)
            for start, end in self.spans(segments, rank)
        ]
        return torch.cat(rows)


def _rows_of(item: Any, rows: int, start: int, end: int) -> Any:
    """Rows [start, end) of a tensor that has as many as its range; one row for all, or an index, stays as it is."""
    if isinstance(item, torch.Tensor) and item.ndim > 0 and item.shape[0] != 1:
        if item.shape[0] != rows:
            raise ShardingError(f"a range of {rows} tokens came with a tensor of shape {tuple(item.shape)}")
        return item[start:end]
    return item
