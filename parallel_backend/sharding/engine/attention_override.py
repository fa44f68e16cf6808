"""The attention override of a sharded model call: this rank's q, k, v in, their attention over all tokens out."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

from ..attention.usp import announce_keys, sequence_parallel_attention
from ..foreign.authors import name_of
from ..foreign.kernel_choice import OVERRIDE, node_attention
from ..foreign.own_options import InOptions
from ..plan.token_layout import Segments
from .model_call import Call, Pipeline
from .node_attention import OPTIONS_IN_ORDER, NodeAttention


class ShardedAttention(InOptions):
    """ComfyUI's `optimized_attention_override`. An override that was there before and only chooses a kernel becomes the
    local one; a node's own attention gets all tokens and heads, see `NodeAttention`.
    """

    def __init__(self, call: Call, previous: Callable | None):
        self._call = call
        self.previous = previous
        self.node: NodeAttention | None = None
        if previous is not None and node_attention({OVERRIDE: previous}) is not None:
            self.node = NodeAttention(call, previous)
            call.node_attention = str(name_of(previous))
            call.session.note(
                f"attention is not divided: {call.node_attention} computes it in its own way, on all tokens and heads"
            )

    def __call__(self, function: Callable, q, k, v, heads: int, *others: Any, **options: Any) -> torch.Tensor:
        segments = self._call.attention_segments
        if self.node is not None:
            return self.node(segments, function, (q, k, v), heads, others, options)
        options |= dict(zip(OPTIONS_IN_ORDER, others, strict=False))
        mask = options.pop("mask", None)
        if segments is None:
            return self._local(function, q, k, v, heads, mask, **options)
        split_output = options.pop("skip_output_reshape", False)
        q, k, v = _by_heads(q, k, v, heads, options)
        if self._call.whole_queries:
            k, v = (self._whole_keys(tensor, segments) for tensor in (k, v))
            options |= {"skip_reshape": True, "skip_output_reshape": split_output}
            return self._local(function, q, k, v, heads, mask, **options)
        self._call.attention_calls += 1

        def kernel(q, k, v, mask):
            return self._local(function, q, k, v, q.shape[1], mask, **{**options, "skip_reshape": True})

        session, split = self._call.session, self._call.split(segments)
        if (pipeline := self._pipeline) is not None:
            out = pipeline.attention(self._call, (q, k, v), mask, segments, kernel)
            return out.unflatten(2, (heads, -1)).transpose(1, 2) if split_output else out
        if mask is not None:
            mask = self._call.mask(mask, segments)
        announced, self._call.announced = self._call.announced, None
        out = sequence_parallel_attention(
            q, k, v, groups=session.sp, split_q=split, split_kv=split, kernel=kernel, mask=mask,
            scale=options.get("scale"), xfuser=session.usp, kernel_with_lse=session.kernel_with_lse,
            announced=announced,
        )  # fmt: skip
        return out.unflatten(2, (heads, -1)).transpose(1, 2) if split_output else out

    def with_whole_queries(self, *args, **options) -> torch.Tensor:
        """The same for queries that every rank has whole, while their keys are split."""
        before, self._call.whole_queries = self._call.whole_queries, True
        try:
            return self(*args, **options)
        finally:
            self._call.whole_queries = before

    def announce(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """The next call will be with these keys and values [B, h, l, D]: their exchange may begin."""
        call = self._call
        segments = call.attention_segments
        if segments is not None and not call.whole_queries and self._pipeline is None and self.node is None:
            call.announced = announce_keys(k, v, groups=call.session.sp, split_kv=call.split(segments))

    @property
    def _pipeline(self) -> Pipeline | None:
        """The one whose own attention is now, see `Pipeline.attends`."""
        pipeline = self._call.pipeline
        return pipeline if pipeline is not None and pipeline.attends() else None

    def _whole_keys(self, keys: torch.Tensor, segments: Segments) -> torch.Tensor:
        """[B, h, l, D] of this rank → [B, h, L, D] of all."""
        return self._call.gather(keys.transpose(1, 2), segments).transpose(1, 2)

    def local(self, function: Callable, q, k, v, heads: int, *others: Any, **options: Any) -> torch.Tensor:
        """Attention of this rank's queries to keys that every rank has."""
        if self.node is not None:
            with self._call.queries_split():
                return self.node(None, function, (q, k, v), heads, others, options)
        return self._local(function, q, k, v, heads, *others, **options)

    def _local(self, function: Callable, q, k, v, heads: int, mask=None, **options: Any) -> torch.Tensor:
        """Attention over what this rank holds, by the kernel that was chosen."""
        if self.previous is not None:
            return self.previous(function, q, k, v, heads, mask=mask, **options)
        return function(q, k, v, heads, mask=mask, **options)


def _by_heads(q, k, v, heads: int, options: dict[str, Any]):
    """To [B, H, L, D], as the override may also be called with [B, L, H*D] or [B, L, H, D]."""
    if options.pop("skip_reshape", False):
        return q, k, v
    q, k, v = q.flatten(2), k.flatten(2), v.flatten(2)
    size = q.shape[-1] // heads
    return tuple(tensor.unflatten(-1, (-1, size)).transpose(1, 2) for tensor in (q, k, v))


def route_global(name: str, call_in_progress: Callable[[], Call | None]) -> None:
    """Send calls of the attention function "module:name" through the exchange while a model runs sharded.

    For architectures that call it without transformer_options, where ComfyUI's override does not reach.
    """
    module_name, _, function_name = name.partition(":")
    module = importlib.import_module(module_name)
    original = getattr(module, function_name)

    @functools.wraps(original)
    def routed(q, k, v, heads, *args, **kwargs):
        call = call_in_progress()
        if call is None or call.attention_segments is None or kwargs.get("transformer_options"):
            return original(q, k, v, heads, *args, **kwargs)
        return ShardedAttention(call, None)(original, q, k, v, heads, *args, **kwargs)

    setattr(module, function_name, routed)
