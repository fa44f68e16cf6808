"""A node's own attention (an attention override that does more than choose a kernel), called as on one device.

It may look at any token and at any head: at where text and image lie, at one head's number. So it gets queries, keys,
values and masks whole and in the model's order, with the very arguments that the model gave; what it returns is cut to
this rank's tokens. The rest of the block stays divided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..foreign.authors import name_of
from ..foreign.kernel_choice import OVERRIDE, node_attention
from ..foreign.remembering import may_remember
from ..plan.token_layout import Segments
from .model_call import Call

# What attention functions take behind q, k, v and heads.
OPTIONS_IN_ORDER = ("mask", "attn_precision", "skip_reshape", "skip_output_reshape")


def undividable_attention(options: dict[str, Any]) -> str:
    """Why blocks cannot lie on different devices under these transformer_options, or ""."""
    override = node_attention(options)
    if override is None or not may_remember(override):
        return ""
    return (
        f"{name_of(override)} computes this workflow's attention and may remember something from one block to the"
        " next, while PipeFusion has each block on one device only"
    )


class NodeAttention:
    """`override` for the attention calls of one model call."""

    def __init__(self, call: Call, override: Callable):
        self._call = call
        self.override = override

    def __call__(
        self,
        segments: Segments | None,
        function: Callable,
        qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        heads: int,
        others: tuple,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """`segments` of q, k and v where this rank holds its share of them, None where attention is local.

        qkv, heads, others, options: as the model calls the attention function. Returns what it expects: this rank's
        rows of the output, [B, l, H*D] or [B, H, l, D].
        """
        call, given = self._call, {**dict(zip(OPTIONS_IN_ORDER, others, strict=False)), **options}
        tokens = 2 if given.get("skip_reshape") else 1
        mask = given.get("mask")
        own = call.own_queries
        q, k, v = qkv
        if segments is not None and call.whole_queries:
            k, v = call.gather_together((k, v), segments, tokens)
        elif segments is not None:
            call.attention_calls += 1
            own = segments
            mask = call.whole_mask(mask, segments) if mask is not None else None
            q, k, v = call.gather_together(qkv, segments, tokens)
        elif own is not None:
            mask = self._for_all_queries(mask, own)
            (q,) = call.gather_together((q,), own, tokens)
        out = self._compute(function, (q, k, v), heads, *_with_mask(mask, others, options))
        return out if own is None else call.take_along(out, own, 2 if given.get("skip_output_reshape") else 1)

    def _for_all_queries(self, mask: torch.Tensor | None, own: Segments) -> torch.Tensor | None:
        """A mask [..., l, keys] over this rank's queries → [..., L, keys]; one that is alike for all stays."""
        if mask is None or mask.ndim < 2 or mask.shape[-2] == 1:
            return mask
        split = self._call.split(own)
        if mask.shape[-2] != split.local[self._call.session.sp.rank]:
            return mask
        rows = mask[None] if mask.ndim == 2 else mask
        whole = self._call.gather_along(rows, own, rows.ndim - 2)
        return whole[0] if mask.ndim == 2 else whole

    def _compute(self, function: Callable, qkv: tuple, heads: int, others: tuple, options: dict[str, Any]):
        """Attention that the override calls in turn sees it, as without this pack, and is exchanged nowhere."""
        model_options: dict[str, Any] = options.get("transformer_options") or {}
        exchanged = model_options.get(OVERRIDE)
        with self._call.attention_suspended():
            try:
                if exchanged is not None:
                    model_options[OVERRIDE] = self.override
                return self.override(function, *qkv, heads, *others, **options)
            finally:
                if exchanged is not None:
                    model_options[OVERRIDE] = exchanged


def _with_mask(mask: torch.Tensor | None, others: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments behind heads, with this mask where the model gave one."""
    if others:
        return (mask, *others[1:]), options
    return others, {**options, "mask": mask} if "mask" in options else options
