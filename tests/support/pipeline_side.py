"""A sampling run of a case's model as a pipeline, and the same run on one device with the same staleness."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._dynamo.backends.debugging import aot_eager

IDENTITY = {"uuids": ["a condition"]}
WEIGHT = {"linear": 1, "linear_gelu": 1, "linear_of_two": 2}  # which argument it is, by the name of the operator
FEEDBACK = 0.3  # how much of a call's output goes into the next call's latent


def run_steps(model: torch.nn.Module, case, steps: int, options: dict[str, Any], before_step=lambda step: None):
    """The outputs of `steps` model calls, each on a latent that the call before has changed, at a lower timestep."""
    outputs = []
    for step in range(steps):
        (x, timestep, *args), kwargs = case.inputs()
        if outputs:
            x[:, : outputs[-1].shape[1]] += FEEDBACK * outputs[-1]  # beside it, an image to start from
        kwargs["transformer_options"] = {**kwargs.get("transformer_options", {}), **options}
        before_step(step)
        outputs.append(model(x, timestep * (1 - step / steps), *args, **kwargs))
    return outputs


class StaleAttention:
    """An attention override for an unmodified model: a query of patch m sees the keys and values of the patches up to
    m as they are, and those of later patches as they were in the model call before.

    `segments`: number of tokens of an attention → the lengths of the segments that it is made of; attentions of another
    length stay as they are. Patches of `ranks` ranks are cut from the longest attention's: all segments but the last go
    into the first patch, and all patches have the same size, up to a token; where some patch would hold fewer than
    `ranks` tokens of the last segment, each segment is cut evenly. `exact_calls` come first.
    """

    def __init__(self, segments: Mapping[int, tuple[int, ...]], patches: int, ranks: int, exact_calls: int):
        self._segments, self._exact_calls = segments, exact_calls
        streams = segments[max(segments)] if segments else ()
        self._patches = dict(zip(streams, _patches_of_rows(streams, patches, ranks), strict=True))
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._call = self._attention = -1

    def next_call(self, step: int) -> None:
        self._call, self._attention = step, -1

    def __call__(self, function, q, k, v, heads, mask=None, **options):
        if not options.pop("skip_reshape", False):
            q, k, v = (t.flatten(2).unflatten(-1, (-1, q.flatten(2).shape[-1] // heads)) for t in (q, k, v))
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        length = k.shape[2]
        options["skip_reshape"] = True
        if q.shape[2] != length or length not in self._segments:
            return function(q, k, v, heads, mask=mask, **options)
        self._attention += 1
        before = self._before.get(self._attention)
        self._before[self._attention] = (k.clone(), v.clone())
        if before is None or self._call < self._exact_calls:
            return function(q, k, v, heads, mask=mask, **options)
        patch = torch.cat([self._patches[segment] for segment in self._segments[length]])
        fresh = patch[None, :] <= patch[:, None]
        seen = torch.zeros(length, 2 * length).masked_fill(~torch.cat((fresh, ~fresh), 1), float("-inf"))
        if mask is not None:
            mask = mask.expand(*mask.shape[:-2], length, length)
            seen = seen + torch.cat((mask, mask), -1)
        return function(q, torch.cat((k, before[0]), 2), torch.cat((v, before[1]), 2), heads, mask=seen, **options)


def _patches_of_rows(streams: tuple[int, ...], patches: int, ranks: int) -> list[torch.Tensor]:
    """For the rows of each stream the number of the patch that they are in, as StaleAttention says."""
    filled = _cut_evenly(sum(streams), patches)[sum(streams[:-1]) :]
    if filled.bincount(minlength=patches).min() < ranks:
        return [_cut_evenly(length, patches) for length in streams]
    return [*(torch.zeros(length, dtype=torch.int64) for length in streams[:-1]), filled]


def _cut_evenly(rows: int, patches: int) -> torch.Tensor:
    parts = torch.arange(rows).tensor_split(patches)
    return torch.cat([torch.full_like(part, number) for number, part in enumerate(parts)])


class LinearRuns:
    """How often each Linear of a model ran on any rows, by its path, in compiled blocks too if they are compiled by
    `backend`. `graphs`: how many that compiled.
    """

    def __init__(self, model: torch.nn.Module):
        self.runs: Counter[str] = Counter()
        self.graphs = 0
        self._paths: dict[int, str] = {}
        for path, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                self._paths[module.weight.data_ptr()] = path
                module.forward = self._counted(module, module.forward)

    def _counted(self, module: torch.nn.Module, original: Callable) -> Callable:
        def forward(*args):
            output = original(*args)
            if not torch.compiler.is_compiling() and output.numel():
                self.runs[self._paths[module.weight.data_ptr()]] += 1
            return output

        return forward

    def backend(self, graph: torch.fx.GraphModule, examples: list) -> Callable:
        self.graphs += 1
        places = {node: place for place, node in enumerate(graph.graph.find_nodes(op="placeholder"))}
        weights = set()
        for node in graph.graph.nodes:
            number = WEIGHT.get(getattr(node.target, "__name__", "").removesuffix(".default"))
            if number is not None and node.meta["example_value"].numel() != 0:
                weights.add(places[_whole(node.args[number])])
        compiled = aot_eager(graph, examples)

        def run(*inputs):
            self.runs.update(self._paths[inputs[place].data_ptr()] for place in weights)
            return compiled(*inputs)

        return run


def _whole(weight: torch.fx.Node) -> torch.fx.Node:
    """What a weight, or some rows of one, are rows of."""
    return weight.args[0] if weight.target is operator.getitem else weight
