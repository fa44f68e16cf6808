"""How one argument of a block is cut for a rank. Each kind is a frozen value with one method.

`cut(value, call)` gets the argument as the model passed it (never None) and the model call in progress, whose `layout`
says who holds which rows, and whose `sharded` says whether tokens came in split already. Kinds that hold tokens also
have `count(value)`, the number of tokens in a whole value; `Used` tells the length of a segment.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from .errors import ShardingError
from .token_layout import Layout, Segments


class Call(Protocol):
    """The model call in progress, as far as a cut depends on it."""

    sharded: bool
    grids: dict[Segments, tuple[int, tuple[int, ...]]]
    node_attention: str

    @property
    def layout(self) -> Layout: ...

    def remember(self, kind: Any, value: Any, make: Callable[[], Any]) -> Any: ...


@dataclass(frozen=True, init=False)
class Tokens:
    """Hidden states [B, L, C]: `segments` one after the other along dim 1; in persist mode they come in split."""

    segments: Segments
    dim: ClassVar[int] = 1

    def __init__(self, *segments: str):
        object.__setattr__(self, "segments", segments)

    def count(self, value: torch.Tensor) -> int:
        return value.shape[self.dim]

    def cut(self, value: torch.Tensor, call: Call) -> torch.Tensor:
        layout = call.layout
        expected = layout.split(self.segments).local[layout.rank] if call.sharded else layout.total(self.segments)
        found = value.shape[self.dim]
        if found != expected:
            raise ShardingError(
                f"{' + '.join(self.segments)} hold {found} tokens where {expected} are expected; a patch or"
                " this version of ComfyUI changed them"
            )
        return value if call.sharded else layout.take(value, self.segments, self.dim)


@dataclass(frozen=True, init=False)
class Rows(Tokens):
    """Hidden states [L, C] of a model that has no batch."""

    dim: ClassVar[int] = 0


@dataclass(frozen=True, init=False)
class FirstTokens(Tokens):
    """Hidden states that come first in a tuple; what comes after stays as it is."""

    def count(self, value: Any) -> int:
        return super().count(value[0])

    def cut(self, value: Any, call: Call) -> Any:
        return (super().cut(value[0], call), *value[1:])


@dataclass(frozen=True)
class Grid:
    """Hidden states with time, height and width as three dims from `dim` on: [B, T, H, W, C] or [T, H, W, B, C].

    A rank's share is no box, so it is handed on as [.., l, 1, 1, ..]: values per frame must become values per token.
    """

    segments: Segments
    dim: int = 1

    def count(self, value: torch.Tensor) -> int:
        return math.prod(value.shape[self.dim : self.dim + 3])

    def cut(self, value: torch.Tensor, call: Call) -> torch.Tensor:
        if call.sharded:
            return value
        call.grids[self.segments] = (self.dim, value.shape[self.dim : self.dim + 3])
        return self._take(value, call)

    def _take(self, value: torch.Tensor, call: Call) -> torch.Tensor:
        local = call.layout.take(value.flatten(self.dim, self.dim + 2), self.segments, self.dim)
        return local.unflatten(self.dim, (-1, 1, 1))


@dataclass(frozen=True)
class WholeGrid(Grid):
    """A tensor on the same grid that the model always passes whole; cut for every block, remembered per call."""

    def cut(self, value: torch.Tensor, call: Call) -> torch.Tensor:
        return call.remember(self, value, lambda: self._take(value, call))


@dataclass(frozen=True)
class Whole:
    """A tensor that the model always passes whole, `segments` along `dim`; cut for every block, remembered per call."""

    segments: Segments
    dim: int = 1

    def cut(self, value: torch.Tensor, call: Call) -> torch.Tensor:
        return call.remember(self, value, lambda: self._take(value, call))

    def _take(self, value: torch.Tensor, call: Call) -> torch.Tensor:
        if value.shape[self.dim] != call.layout.total(self.segments):
            raise ShardingError(
                f"{' + '.join(self.segments)} hold {call.layout.total(self.segments)} tokens, a tensor of shape"
                f" {tuple(value.shape)} does not cover them along dim {self.dim}"
            )
        return call.layout.take(value, self.segments, self.dim)


@dataclass(frozen=True)
class Positions(Whole):
    """Rotary or other positional tensors, indexed by token along `dim`; of size 1 there, or no tensor, they stay."""

    def cut(self, value: Any, call: Call) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(self.cut(item, call) if isinstance(item, torch.Tensor) else item for item in value)
        return value if value.shape[self.dim] == 1 else super().cut(value, call)


@dataclass(frozen=True)
class PerFrame:
    """Values [B, T, ...], each for a run of ceil(L / T) tokens of `segment` (per-frame timesteps): spread, then cut.

    T = 1 stays: it is broadcast. Source: repeat_e of comfy/ldm/wan/model.py.
    """

    segment: str
    dim: int = 1

    def cut(self, value: torch.Tensor, call: Call) -> torch.Tensor:
        if value.shape[self.dim] == 1:
            return value
        return call.remember(self, value, lambda: self._spread(value, call))

    def _spread(self, value: torch.Tensor, call: Call) -> torch.Tensor:
        total = call.layout.total((self.segment,))
        run = -(-total // value.shape[self.dim])
        spread = value if run == 1 else value.repeat_interleave(run, self.dim).narrow(self.dim, 0, total)
        return call.layout.take(spread, (self.segment,), self.dim)


@dataclass(frozen=True)
class CompressedFrames:
    """LTX-2's CompressedTimestep, one row for each frame or token of `segment`: the rows that this rank's tokens use.

    One row for all stays. Source: comfy/ldm/lightricks/av_model.py.
    """

    segment: str

    def cut(self, value: Any, call: Call) -> Any:
        if value.num_frames * value.patches_per_frame == 1:
            return value
        return call.remember(self, value, lambda: self._share(value, call))

    def _share(self, value: Any, call: Call) -> Any:
        ((start, end),) = call.layout.spans((self.segment,), call.layout.rank)
        first = start // value.patches_per_frame
        share = copy.copy(value)
        share.data = value.data[:, first : -(-end // value.patches_per_frame)]
        share.num_frames = share.data.shape[1]
        offset = start - first * value.patches_per_frame
        share.__class__ = _tokens_of_frames(type(value), offset, end - start)
        return share


def _tokens_of_frames(kind: type, offset: int, length: int) -> type:
    """`kind` whose expanded values are cut to the tokens [offset, offset + length)."""

    class Share(kind):
        __slots__ = ()

        def expand_for_computation(self, *args, **kwargs):
            values = super().expand_for_computation(*args, **kwargs)
            return tuple(value[:, offset : offset + length] for value in values)

    return Share


@dataclass(frozen=True)
class Ranges:
    """A list of (start, end, ...) over the rows of `segments`; `end` None is the end."""

    segments: Segments

    def cut(self, value: list[tuple], call: Call) -> list[tuple]:
        return call.layout.take_ranges(value, self.segments)


@dataclass(frozen=True)
class RangesBehind:
    """Ranges over `segment`, which lies behind `first`, made by code between blocks: the model added the length of
    `first` as it saw it (this rank's share once tokens are split) to each bound but 0, which means all of `first`.
    """

    first: str
    segment: str

    def cut(self, value: list[tuple], call: Call) -> list[tuple]:
        own = call.layout.split((self.first,)).local[call.layout.rank]
        seen = own if call.sharded else call.layout.total((self.first,))
        behind = [(max(start - seen, 0), end - seen, *rest) for start, end, *rest in value]
        local = [
            (start + own, end + own, *rest) for start, end, *rest in call.layout.take_ranges(behind, (self.segment,))
        ]
        return [(0, own, *rest) for start, _, *rest in value if start == 0] + local


@dataclass(frozen=True)
class Cut:
    """A row number of `segment` that divides it in two (rows before, rows from there on)."""

    segment: str

    def cut(self, value: int, call: Call) -> int:
        ((start, end),) = call.layout.spans((self.segment,), call.layout.rank)
        return min(max(value - start, 0), end - start)


@dataclass(frozen=True)
class Used:
    """How many leading rows of the argument `of` the attention sees: these are `segment`, the others are `rest`."""

    of: str
    segment: str
    rest: str

    def told(self, value: int, bound: dict[str, Any]) -> dict[str, int]:
        """The length of `rest`, known before the tokens are looked at."""
        return {self.rest: max(bound[self.of].shape[1] - value, 0)}

    def cut(self, value: int, call: Call) -> int:
        return call.layout.split((self.segment,)).local[call.layout.rank]


@dataclass(frozen=True)
class GuideMask:
    """LTX's mask in two parts, one for the noisy and one for the guide queries, as one dense mask for all queries.

    Its two attention calls would take a number of queries that differs by rank. Source: GuideAttentionMask of
    comfy/ldm/lightricks/model.py. Other masks stay.
    """

    segment: str

    def cut(self, value: Any, call: Call) -> Any:
        if isinstance(value, torch.Tensor):
            return value
        if call.node_attention:
            raise ShardingError(
                f"{call.node_attention} computes attention in its own way, and with guide frames LTX calls it for the"
                " video and the guides apart, which tokens divided over ranks cannot: set Parallel Config's ulysses and"
                " ring to 1"
            )
        return call.remember(self, value, lambda: self._dense(value, call))

    def _dense(self, value: Any, call: Call) -> Any:
        total, end = value.noisy_mask.shape[-1], value.guide_start + value.tracked_count
        dense = value.noisy_mask.new_zeros((1, 1, total, total))
        dense[:, :, : value.guide_start] = value.noisy_mask
        dense[:, :, value.guide_start : end] = value.tracked_mask
        mask = copy.copy(value)
        mask.guide_start, mask.tracked_mask = 0, dense
        mask.tracked_count = call.layout.split((self.segment,)).local[call.layout.rank]
        return mask


Argument = (
    Tokens | Grid | Whole | Positions | PerFrame | CompressedFrames | Ranges | RangesBehind | Cut | Used | GuideMask
)
