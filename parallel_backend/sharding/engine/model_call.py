"""The state of one model call: how its tokens are laid out over the ranks, and making them whole again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol

import torch

from ..attention.ring import Announced
from ..exchange.collectives import TokenSplit
from ..foreign.reach import Reach
from ..plan.argument_kinds import Grid, Tokens, Used
from ..plan.errors import ShardingError
from ..plan.plan import GRID, Blocks, Plan, TokenDim
from ..plan.token_layout import Layout, Segments
from .call_modes import Mode
from .gather import gather_keys, gather_tokens
from .session import Session


class LengthsUnknown(ShardingError):
    """Blocks that take several segments in one tensor were called before those that tell how long each is."""


class Pipeline(Protocol):
    """What sequence parallelism knows of a pipeline of stages; pipeline/pipelined_model.py is one."""

    @property
    def patch(self) -> tuple[int, int]:
        """(number of the patch in progress, number of patches)"""

    def begin(self, call: Call | None, options: dict[str, Any], inputs: tuple) -> None:
        """A model call begins; `call` is None for one that is not divided. `options`: its transformer_options."""

    def situation(self) -> Hashable | None:
        """As ShardedModel.situation."""

    def refuse(self, reach: Reach) -> None:
        """Raises ShardingError for foreign code that cannot run on one stage alone."""

    def attends(self) -> bool:
        """Whether attention is the pipeline's own now: over keys and values that it keeps."""

    def attention(
        self,
        call: Call,
        qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
        segments: Segments,
        kernel: Callable[..., torch.Tensor],
    ) -> torch.Tensor:
        """As sequence_parallel_attention of q, k, v [B, H, l, D] of this rank: [B, l, H*D]."""

    def patch_made(self, call: Call, output: torch.Tensor, length: int) -> torch.Tensor:
        """[B, l, C] of this patch → [B, length, C] of all of them."""


class Call:
    """One model call: how its tokens are laid out, and whether they are split right now.

    `reach`: what foreign code sees of it.
    `whole`: the rest of the call is not divided; `inside`: the Blocks whose block runs now, None between blocks;
    `suspended`: a submodule with local attention runs inside it;
    `split_queries`: attention is local in it, but its queries are this rank's share;
    `whole_queries`: one whose keys alone are split; `whole_arguments`: what patches inside the block see whole.
    `announced`: the keys and values of the next attention, on
    their way. `node_attention`: the name of a node's own attention, "" without one.
    """

    def __init__(self, session: Session, mode: Mode, pipeline: Pipeline | None = None, reach: Reach | None = None):
        self.session = session
        self.mode = mode
        self.reach = reach if reach is not None else Reach()
        self.pipeline = pipeline
        self.node_attention = ""
        self.reset()

    def reset(self) -> None:
        """Back to the state in which the call begins: tokens whole."""
        self._layout: Layout | None = None
        self.sharded = False
        self.whole = False
        self.inside: Blocks | None = None
        self.suspended = False
        self.split_queries = False
        self.whole_queries = False
        self.attention_calls = 0
        self.whole_arguments: dict[str, Any] = {}
        self.grids: dict[Segments, tuple[int, tuple[int, ...]]] = {}
        self.announced: Announced | None = None
        self._remembered: dict[tuple, tuple[Any, torch.Tensor]] = {}

    @property
    def layout(self) -> Layout:
        """How long the segments are and who holds which rows, known from the first blocks on that were entered.

        Raises ShardingError before.
        """
        if self._layout is None:
            raise ShardingError("no block of this model call was entered yet, so the lengths of its tokens are unknown")
        return self._layout

    @property
    def block(self) -> Blocks:
        """`inside`, for what is only called from inside a block. Raises ShardingError between blocks."""
        if self.inside is None:
            raise ShardingError("this belongs inside a block of the plan, and none runs now")
        return self.inside

    @property
    def attention_segments(self) -> Segments | None:
        """The segments of q, k and v where attention is exchanged now, None where it is local."""
        if self.inside is None or self.suspended:
            return None
        per_call = (self.inside.attention, *self.inside.then)
        return per_call[min(self.attention_calls, len(per_call) - 1)]

    @property
    def own_queries(self) -> Segments | None:
        """The segments of the queries of a local attention, of which this rank holds its share; None where it has all
        of them.
        """
        return self.inside.attention if self.inside is not None and self.split_queries else None

    @contextlib.contextmanager
    def queries_split(self) -> Iterator[None]:
        """While it lasts, attention is local and its queries are this rank's share."""
        before, self.split_queries = self.split_queries, True
        try:
            yield
        finally:
            self.split_queries = before

    @contextlib.contextmanager
    def attention_suspended(self) -> Iterator[None]:
        """While it lasts, attention is not exchanged."""
        before, self.suspended = self.suspended, True
        try:
            yield
        finally:
            self.suspended = before

    @property
    def patch(self) -> tuple[int, int]:
        """The number of the patch in progress, and of how many."""
        return self.pipeline.patch if self.pipeline is not None else (0, 1)

    @property
    def parts(self) -> range:
        """Which parts of the layout the ranks of the sequence group hold now."""
        size = self.session.sp.size
        return range(self.patch[0] * size, (self.patch[0] + 1) * size)

    def split(self, segments: Segments) -> TokenSplit:
        """How many tokens of `segments` each rank of the sequence group holds now."""
        return TokenSplit(self.layout.split(segments).local[self.parts.start : self.parts.stop])

    def enter(self, plan: Plan, blocks: Blocks, bound: dict[str, Any]) -> None:
        """The first block after tokens were whole tells the lengths of the segments."""
        if self.sharded:
            return
        lengths, known = {}, dict(self._layout.lengths) if self._layout is not None else {}
        for name, argument in blocks.arguments.items():
            if isinstance(argument, Used):
                known |= argument.told(bound[name], bound)
        for name, argument in blocks.arguments.items():
            if isinstance(argument, Tokens | Grid) and bound.get(name) is not None:
                for segment in argument.segments[1:]:
                    if segment not in known:
                        raise LengthsUnknown(
                            f"{plan.model}: the first blocks that ran are {blocks.path}, whose {name} holds"
                            f" {argument.segments} in one; their lengths are not known there"
                        )
                    lengths[segment] = known[segment]
                first, others = argument.segments[0], argument.segments[1:]
                lengths[first] = argument.count(bound[name]) - sum(known[segment] for segment in others)
                if others and known.get(first, lengths[first]) != lengths[first]:
                    raise LengthsUnknown(
                        f"{plan.model}: {first} has {lengths[first]} tokens in {name} of {blocks.path}, and"
                        f" {known[first]} before"
                    )
        sp, (patch, patches) = self.session.sp, self.patch
        comes_out = plan.gathers[-1].segments if plan.gathers else ()
        ordered = sorted((lengths or known).items(), key=lambda item: item[0] in comes_out)
        layout = Layout(tuple(ordered), patches * sp.size, patch * sp.size + sp.rank, patches)
        if layout != self._layout:
            self._layout = layout
            self._remembered.clear()

    def leaves_a_rank_empty(self, blocks: Blocks, bound: dict[str, Any]) -> bool:
        """Whether some ranks would hold no token of a stream that `blocks` take now, others one."""
        splits = (
            self.split(argument.segments).local
            for name, argument in blocks.arguments.items()
            if isinstance(argument, Tokens | Grid) and bound.get(name) is not None
        )
        return any(min(local) == 0 < max(local) for local in splits)

    def remember(self, kind: Any, value: torch.Tensor, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """`make()` once for this tensor object under this layout."""
        key = (kind, id(value))
        if key not in self._remembered:
            self._remembered[key] = (value, make())
        return self._remembered[key][1]

    def gather(self, value: torch.Tensor, segments: Segments) -> torch.Tensor:
        """Whole [B, L, C] of `segments`, in the model's order, on every rank; on a grid as the model had it."""
        if segments in self.grids:
            return self._gather_grid(value, segments)
        if value.ndim == 2:  # [L, C]
            return self.gather(value[None], segments)[0]
        return self._gather_tokens(value, segments)

    def _gather_tokens(self, value: torch.Tensor, segments: Segments) -> torch.Tensor:
        """[B, l, C] → [B, L, C]"""
        rank_major = gather_tokens(value, self.split(segments), self.session.sp)
        if self.pipeline is not None and self.pipeline.patch[1] > 1:
            rank_major = self.pipeline.patch_made(self, rank_major, self.layout.total(segments))
        if len(segments) == 1:
            return rank_major
        order = self.layout.rank_major(segments, value.device)
        return torch.empty_like(rank_major).index_copy_(1, order, rank_major)

    def gather_together(self, values: Sequence[torch.Tensor], segments: Segments, dim: int) -> list[torch.Tensor]:
        """As `gather_along`, of several tensors that differ in other dims than the first and `dim`, in one transfer."""
        if len({value.dtype for value in values}) > 1:
            return [self.gather_along(value, segments, dim) for value in values]
        tokens = [value.movedim(dim, 1) for value in values]
        flat = [value.flatten(2) for value in tokens]
        whole = self._gather_tokens(torch.cat(flat, 2), segments).split([value.shape[2] for value in flat], 2)
        return [
            part.unflatten(2, value.shape[2:]).movedim(1, dim).contiguous()
            for part, value in zip(whole, tokens, strict=True)
        ]

    def whole_mask(self, mask: torch.Tensor, segments: Segments) -> torch.Tensor:
        """An attention mask over whole sequences in the model's order, as the model gives it without a split."""
        if self.block.mask != "local":
            return mask
        rank_major = gather_keys(mask, self.split(segments), self.session.sp)
        order = self.layout.rank_major(segments, mask.device)
        return torch.empty_like(rank_major).index_copy_(-1, order, rank_major)

    def gather_along(self, value: torch.Tensor, segments: Segments, dim: TokenDim) -> torch.Tensor:
        """As `gather`, of a tensor that has its tokens along `dim`, or on this rank's share of a GRID."""
        if dim == GRID:
            return self._gather_grid(value, segments)
        tokens = value.movedim(dim, 1)
        whole = self._gather_tokens(tokens.flatten(2), segments)
        return whole.unflatten(2, tokens.shape[2:]).movedim(1, dim)

    def take_along(self, whole: torch.Tensor, segments: Segments, dim: TokenDim) -> torch.Tensor:
        """This rank's share of what `gather_along` made whole."""
        if dim != GRID:
            return self.layout.take(whole, segments, dim)
        first = self.grids[segments][0]
        return self.layout.take(whole.flatten(first, first + 2), segments, first).unflatten(first, (-1, 1, 1))

    def _gather_grid(self, value: torch.Tensor, segments: Segments) -> torch.Tensor:
        dim, shape = self.grids[segments]
        tokens = value.flatten(dim, dim + 2).transpose(1, dim)  # [B, l, C]
        whole = gather_tokens(tokens, self.split(segments), self.session.sp)
        return whole.transpose(1, dim).unflatten(dim, shape)

    def mask(self, mask: torch.Tensor, segments: Segments) -> torch.Tensor:
        """An attention mask over whole sequences, rows and columns in the order in which the ranks hold them."""
        if self.block.mask == "local":
            return gather_keys(mask, self.split(segments), self.session.sp)
        return self.remember(segments, mask, lambda: self._rank_major(mask, segments))

    def _rank_major(self, mask: torch.Tensor, segments: Segments) -> torch.Tensor:
        total = self.layout.total(segments)
        order = self.layout.rank_major(segments, mask.device)
        for dim in (-2, -1):
            if mask.shape[dim] == total:
                mask = mask.index_select(dim, order)
            elif mask.shape[dim] != 1:
                raise ShardingError(f"an attention mask of shape {tuple(mask.shape)} does not cover {total} tokens")
        return mask
