"""Rewrites the graph of a block and hands it to the compiler: linear layers together with what lies around them.

gelu(linear(x))             → linear_gelu(x)
split(linear(x)), one part  → linear for the parts, each with its rows of the weight, so that the one with a gelu
of it through a gelu          can be a linear_gelu (a transformer block with attention and MLP side by side)
linear(cat(a, b))           → linear_of_two(a, b)

Keys and values are announced as soon as they are there, and a linear_gelu that does not wait for attention comes before
it: ranks that can, exchange them meanwhile.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from operator import getitem
from typing import Any, TypeGuard

import torch
from torch._dynamo import lookup_backend
from torch._inductor import config
from torch._inductor.virtualized import V
from torch.fx import Graph, GraphModule, Node

from . import attention_op, linear_op  # noqa: F401  the operators
from .reductions import OnePass

LINEAR, GELU = torch._C._nn.linear, torch._C._nn.gelu
LINEAR_GELU = torch.ops.xdit.linear_gelu.default
IN_PLACE = {operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem}
NO_EXPONENT_TO_SPARE = torch.float16  # a part of a sum may be larger than the whole
_runs = 0


@functools.cache
def fusing(backend: str | Callable) -> Callable:
    """The torch.compile backend that hands the rewritten graph to `backend`, named as torch.compile names it."""
    compiler = lookup_backend(backend) if isinstance(backend, str) else backend

    @functools.wraps(compiler)
    def compile_fused(module: GraphModule, inputs: list, **options):
        fuse(module.graph)
        module.recompile()
        # Attentions are exchanges: on every rank in the model's order, whatever memory another would need.
        with V.set_choices_handler(OnePass()), config.patch(reorder_for_peak_memory=False):
            compiled = compiler(module, inputs, **options)

        def run(*tensors):
            global _runs
            _runs += 1
            return compiled(*tensors)

        return run

    return compile_fused


def runs() -> int:
    """How often something compiled began to run."""
    return _runs


def fuse(graph: Graph) -> None:
    """Of a graph as Dynamo gives it, with the example values in its nodes' meta."""
    for node in list(graph.nodes):
        if node.target is torch.split:
            _divide_linear(node)
    for node in list(graph.nodes):
        if _is_gelu(node):
            _take_in_gelu(node)
        elif node.target is LINEAR:
            _take_in_cat(node)
    attentions = [node for node in graph.nodes if node.target is torch.ops.xdit.attention]
    if len(attentions) == 1:
        _announce(attentions[0])


def _divide_linear(split: Node) -> None:
    """One linear layer for each part, where one of them goes through a gelu and nothing but that."""
    linear, sizes = split.args[0], split.args[1] if len(split.args) > 1 else None
    if not _only_user(linear, LINEAR) or not _along_last(split, linear) or not _are_numbers(sizes):
        return
    parts = list(split.users)
    if any(part.target is not getitem for part in parts) or not any(_through_gelu(part) for part in parts):
        return
    rows = list(pairwise(accumulate(sizes, initial=0)))
    for part in parts:
        number: Any = part.args[1]
        start, end = rows[number]
        _replace(part, LINEAR, *_arguments(linear, lambda value, start=start, end=end: _rows(split, value, start, end)))
    _erase(split, linear)


def _take_in_gelu(gelu: Node) -> None:
    linear = gelu.args[0]
    if _only_user(linear, LINEAR):
        _replace(gelu, LINEAR_GELU, *_arguments(linear))
        _erase(linear)


def _take_in_cat(linear: Node) -> None:
    cat = linear.args[0]
    if not _only_user(cat, torch.cat) or not _along_last(cat, cat) or _dtype(cat) is NO_EXPONENT_TO_SPARE:
        return
    parts: Any = cat.args[0] if cat.args else cat.kwargs["tensors"]
    if len(parts) == 2 and all(_dtype(part) == _dtype(cat) for part in parts):
        _, *rest = _arguments(linear)
        _replace(linear, torch.ops.xdit.linear_of_two.default, *parts, *rest)
        _erase(cat)


def _announce(attention: Node) -> None:
    """Announcement, linear_gelu, attention: in this order, as each is an input of the next."""
    _, k, v, _, mask, _, apart, _, by_heads, *_ = attention.args
    late = _after(attention)
    waiting = {attention}
    for node in late:
        if waiting & set(node.all_input_nodes):
            waiting.add(node)
    early = [node for node in late if node.target is LINEAR_GELU and node not in waiting]
    if apart or mask is not None or not by_heads or not early:
        return
    rows = [value for node in early for value in node.all_input_nodes if value in late]
    if any(row.target is not getitem for row in rows) or any(map(_changes_its_input, late[: late.index(early[-1])])):
        return
    with attention.graph.inserting_before(attention):
        before = attention.graph.call_function(torch.ops.xdit.announce_keys.default, (k, v))
    for node in (*rows, *early):
        attention.prepend(node)
    for node in early:
        node.args = (*node.args, before)
        before = node
    attention.args = (*attention.args, before)


def _after(node: Node) -> list[Node]:
    nodes = list(node.graph.nodes)
    return nodes[nodes.index(node) + 1 :]


def _changes_its_input(node: Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.target in IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def _replace(node: Node, target: Callable, *arguments) -> None:
    """`node` gives way to a call whose output is like its own."""
    with node.graph.inserting_before(node):
        made = node.graph.call_function(target, arguments)
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    node.graph.erase_node(node)


def _erase(*unused: Node) -> None:
    for node in unused:
        node.graph.erase_node(node)


def _arguments(linear: Node, of_weights: Callable = lambda value: value) -> tuple:
    """input, weight, bias; what belongs to the outputs through `of_weights`."""
    input, weight, *rest = linear.args
    bias = rest[0] if rest else linear.kwargs.get("bias")
    return input, of_weights(weight), None if bias is None else of_weights(bias)


def _rows(before: Node, value: Node, start: int, end: int) -> Node:
    with before.graph.inserting_before(before):
        rows = before.graph.call_function(getitem, (value, slice(start, end)))
    rows.meta["example_value"] = value.meta["example_value"][start:end]
    return rows


def _are_numbers(sizes: object) -> TypeGuard[Sequence[int]]:
    return isinstance(sizes, (list, tuple)) and all(isinstance(size, int) for size in sizes)


def _only_user(node: object, target: Callable) -> TypeGuard[Node]:
    """Whether `node` is a call of `target` whose output is used once."""
    return isinstance(node, Node) and node.target is target and len(node.users) == 1


def _through_gelu(node: Node) -> bool:
    return len(node.users) == 1 and _is_gelu(next(iter(node.users)))


def _is_gelu(node: Node) -> bool:
    return node.target is GELU and node.kwargs.get("approximate") == "tanh"


def _along_last(call: Node, tensor: Node) -> bool:
    """Whether split or cat, `call`, works along the last dim of a tensor like `tensor`."""
    position = 2 if call.target is torch.split else 1
    dim = call.args[position] if len(call.args) > position else call.kwargs.get("dim", 0)
    dims = tensor.meta["example_value"].ndim
    return dim % dims == dims - 1


def _dtype(node: Node) -> torch.dtype:
    return node.meta["example_value"].dtype
