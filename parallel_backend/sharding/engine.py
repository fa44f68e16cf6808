"""Runs an unmodified diffusion model over a share of its tokens, as a plan says.

Hooks on the blocks cut what comes in, an attention override exchanges q, k and v, a hook on the gather module makes the
image whole. Between two model calls nothing is sharded, and without an active session the hooks do nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from .attention import ShardedAttention
from .collectives import SequenceGroups
from .gather import gather_tokens
from .layout import Layout
from .plan import Blocks, Gather, Plan, Segments
from .residuals import shard_residuals

OVERRIDE = "optimized_attention_override"


class ShardingError(RuntimeError):
    """The model did not behave as its plan says; sampling on would give a wrong picture."""


@dataclass
class Session:
    """Sequence parallelism of one request: set as `ShardedModel.session` while it samples.

    `sp`: the process groups; `usp`: xfuser's USP for them, or None. `notes`: lines for the person, each once.
    """

    sp: SequenceGroups
    usp: Any = None
    notes: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)
            logging.info("xDiT: %s", line)


class ShardedModel:
    """The hooks on one diffusion model. `call` is the state of the model call in progress, None between calls."""

    def __init__(self, model: torch.nn.Module, plan: Plan):
        self.plan = plan
        self.session: Session | None = None
        self.call: Call | None = None
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end, always_call=True)
        for blocks in plan.blocks:
            for block in model.get_submodule(blocks.path):
                names = _argument_names(block)
                _check_names(plan, blocks, names)
                block.register_forward_pre_hook(self._enter_block(blocks, names), with_kwargs=True)
                block.register_forward_hook(self._leave_block)
        gather = model.get_submodule(plan.gather.path)
        gather.register_forward_pre_hook(self._enter_gather(plan.gather, _argument_names(gather)), with_kwargs=True)
        gather.register_forward_hook(self._gather)

    def _begin(self, model, args, kwargs):
        if self.session is None:
            return None
        options = kwargs.get("transformer_options") or {}
        reason = unsafe_option(self.plan, options)
        if reason is not None:
            self.session.note(f"{reason} works on whole tokens; this model call runs unsharded on every rank")
            return None
        self.call = Call(self.session)
        options = dict(options)
        options[OVERRIDE] = ShardedAttention(self.call, options.get(OVERRIDE))
        kwargs = {**kwargs, "transformer_options": options}
        if kwargs.get("control") is not None:
            kwargs["control"] = shard_residuals(kwargs["control"], self.plan.residuals, self.call)
        return args, kwargs

    def _end(self, model, args, output):
        call, self.call = self.call, None
        if call is not None and call.sharded:
            raise ShardingError(
                f"{self.plan.model}: the tokens were split but never gathered; this version of ComfyUI does not match"
                " the plan. Set strategy to manual with all degrees 1 and report it"
            )

    def _enter_block(self, blocks: Blocks, names: tuple[str, ...]) -> Callable:
        def hook(block, args, kwargs):
            call = self.call
            if call is None:
                return None
            bound = {**dict(zip(names, args, strict=False)), **kwargs}
            call.enter(self.plan, blocks, bound)
            for name, segments in blocks.tokens.items():
                bound[name] = call.tokens(bound[name], segments, f"{blocks.path}.{name}", self.plan)
            for name, positions in blocks.positions.items():
                if bound.get(name) is not None:
                    bound[name] = call.positions(bound[name], positions.segments, positions.dim)
            for name, segments in blocks.ranges.items():
                if bound.get(name) is not None:
                    bound[name] = call.layout.take_ranges(bound[name], segments)
            call.sharded = True
            call.attention_segments = blocks.attention
            return (), bound

        return hook

    def _leave_block(self, block, args, output):
        if self.call is not None:
            self.call.attention_segments = None

    def _enter_gather(self, gather: Gather, names: tuple[str, ...]) -> Callable:
        def hook(module, args, kwargs):
            if self.call is None or not self.call.sharded or not gather.ranges:
                return None
            bound = {**dict(zip(names, args, strict=False)), **kwargs}
            for name, segments in gather.ranges.items():
                if bound.get(name) is not None:
                    bound[name] = self.call.layout.take_ranges(bound[name], segments)
            return (), bound

        return hook

    def _gather(self, module, args, output):
        call = self.call
        if call is None or not call.sharded:
            return None
        call.sharded = False
        return gather_tokens(output, call.layout.split(self.plan.gather.segments), self.session.sp)


class Call:
    """One model call: how its tokens are laid out, and whether they are split right now."""

    def __init__(self, session: Session):
        self.session = session
        self.layout: Layout | None = None
        self.sharded = False
        self.attention_segments: Segments | None = None
        self._positions: dict[tuple[int, Segments], tuple[torch.Tensor, torch.Tensor]] = {}
        self._masks: dict[tuple[int, Segments], tuple[torch.Tensor, torch.Tensor]] = {}

    def enter(self, plan: Plan, blocks: Blocks, bound: dict[str, Any]) -> None:
        """The first block of a call tells the lengths of the segments."""
        if self.sharded:
            return
        lengths = []
        for name, segments in blocks.tokens.items():
            if len(segments) != 1:
                raise ShardingError(
                    f"{plan.model}: the first blocks that ran are {blocks.path}, whose {name} holds {segments} in one;"
                    " their lengths are not known there"
                )
            lengths.append((segments[0], bound[name].shape[1]))
        self.layout = Layout(tuple(lengths), self.session.sp.size, self.session.sp.rank)

    def tokens(self, value: torch.Tensor, segments: Segments, name: str, plan: Plan) -> torch.Tensor:
        """This rank's rows of `value` [B, L, C]; `value` itself when it is split already."""
        expected = self.layout.split(segments).local[self.layout.rank] if self.sharded else self.layout.total(segments)
        if value.shape[1] != expected:
            raise ShardingError(
                f"{plan.model}: {name} has {value.shape[1]} tokens where the plan expects {expected}; a patch or this"
                " version of ComfyUI changed them"
            )
        return value if self.sharded else self.layout.take(value, segments, 1)

    def positions(self, value: torch.Tensor, segments: Segments, dim: int) -> torch.Tensor:
        key = (id(value), segments)
        if key not in self._positions:
            if value.shape[dim] == 1:
                return value
            if value.shape[dim] != self.layout.total(segments):
                raise ShardingError(
                    f"positions cover {value.shape[dim]} tokens, the segments {segments} hold"
                    f" {self.layout.total(segments)}"
                )
            self._positions[key] = (value, self.layout.take(value, segments, dim))
        return self._positions[key][1]

    def rank_major_mask(self, mask: torch.Tensor, segments: Segments) -> torch.Tensor:
        """`mask` over whole tokens, rows and columns in the order in which the ranks hold them."""
        key = (id(mask), segments)
        if key not in self._masks:
            total = self.layout.total(segments)
            permuted = mask
            order = self.layout.rank_major(segments, mask.device)
            for dim in (-2, -1):
                if mask.shape[dim] == total:
                    permuted = permuted.index_select(dim, order)
                elif mask.shape[dim] != 1:
                    raise ShardingError(f"an attention mask of shape {tuple(mask.shape)} does not cover {total} tokens")
            self._masks[key] = (mask, permuted)
        return self._masks[key][1]


def unsafe_option(plan: Plan, options: dict[str, Any]) -> str | None:
    """What in transformer_options looks inside the blocks, where tokens are split; None when nothing does."""
    patches = [name for name, found in options.get("patches", {}).items() if found and name not in plan.safe_patches]
    if patches:
        return f"the patch {patches[0]!r}"
    replaced = [name for name, found in options.get("patches_replace", {}).items() if found]
    if replaced:
        return f"a replaced block or attention ({replaced[0]!r})"
    return None


def _argument_names(module: torch.nn.Module) -> tuple[str, ...]:
    return tuple(inspect.signature(module.forward).parameters)


def _check_names(plan: Plan, blocks: Blocks, names: tuple[str, ...]) -> None:
    missing = [name for name in (*blocks.tokens, *blocks.positions, *blocks.ranges) if name not in names]
    if missing:
        raise ShardingError(
            f"{plan.model}: {blocks.path} takes {', '.join(names)}; the plan expects {', '.join(missing)} too. This"
            " version of ComfyUI renamed an argument; update xDiT for ComfyUI"
        )
