"""Replays a diffusion model's whole forward as one CUDA graph, exchanges between the ranks included.

A step of a small image on several GPUs is bound by launching its kernels; a graph launches them all at once. A graph
holds the addresses of what it read, so it is kept for one set of shapes, options, degrees and weight addresses only.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import chain
from types import MethodType
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..sharding.engine.attention_override import ShardedAttention
from ..sharding.exchange import collective_counts
from ..sharding.foreign.kernel_choice import OVERRIDE, runs_torchs_kernel
from ..sharding.foreign.model_watch import watch

OPTIONS = "transformer_options"
WARM_CALLS = 2  # calls before a capture: the compiler, NCCL and the attention kernels set themselves up in them
MOST_GRAPHS = 4
PLAIN = (type(None), bool, int, float, str)


@dataclass
class Graph:
    """`collectives`: those that each replay begins, as in counts.begun()."""

    graph: torch.cuda.CUDAGraph
    inputs: list[torch.Tensor]
    output: torch.Tensor
    collectives: dict[str, int] = field(default_factory=dict)

    def replay(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        for static, tensor in zip(self.inputs, tensors, strict=True):
            static.copy_(tensor)
        collective_counts.replayed(self.collectives)
        self.graph.replay()
        return self.output.clone()


class GraphedForward:
    """`model.forward` through graphs while `active`.

    What the kernels depend on beside shapes is given as an identity (degrees, attention kernel). Another one, and
    weights that lie elsewhere than at the last request, drop the graphs.
    `restart()` puts the state of the model call back to its beginning after a capture that failed. `situation()` says
    what else a call's kernels depend on, None for a call that cannot be captured.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        restart: Callable[[], None],
        situation: Callable[[], Hashable | None] = lambda: (),
    ):
        self.active = False
        self._model = model
        self._identity: Hashable = None
        self._addresses: Hashable = None
        self._check_addresses = True
        self._restart = restart
        self._situation = situation
        self._note: Callable[[str], None]
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self._calls: Counter = Counter()
        self._refused: set[Hashable] = set()
        self._pool: Any = None  # torch's handle
        self._watch = watch(model)
        of_its_class = MethodType(type(model).forward, model)

        @functools.wraps(of_its_class)
        def own(*args, **kwargs):  # the class's at the time: a node pack may replace it for one request
            return type(model).forward(model, *args, **kwargs)

        self._original: Callable[..., torch.Tensor] = own
        if not hasattr(model, "_forward"):  # PipeFusion replaces it: the runs of all patches go into one graph
            owner: Any = model
            owner._forward = own
            self._original = lambda *args, **kwargs: owner._forward(*args, **kwargs)
        self._in_its_place = functools.wraps(own)(lambda *args, **kwargs: self._forward(*args, **kwargs))
        self._take_place()

    def _take_place(self) -> None:
        """Be the model's forward, unless a node's is in its place. ComfyUI drops this one where it takes that back."""
        replaced = any(one.path == "" and one.what == "forward" for one in self._watch.look())
        if not replaced and vars(self._model).get("forward") is not self._in_its_place:
            self._model.forward = self._in_its_place

    def start(self, note: Callable[[str], None], identity: Hashable) -> None:
        """Capture and replay in this request; weights keep their places while it lasts. `note(line)` hears why a call
        is not captured.
        """
        self._note = note
        self._take_place()
        if identity != self._identity:
            self.drop()
            self._identity = identity
        self._check_addresses = True
        self.active = True

    def drop(self) -> None:
        """Forget every graph, and free its memory."""
        self._graphs.clear()
        self._calls.clear()
        self._refused.clear()
        self._pool = None

    def _forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.active or self._watch.found:
            return self._original(*args, **kwargs)
        if self._check_addresses:
            self._drop_if_moved()
        options = kwargs.get(OPTIONS) or {}
        leaves, structure = tree_flatten((args, {name: value for name, value in kwargs.items() if name != OPTIONS}))
        key, situation = _key(leaves, structure, options), self._situation()
        if key is None or situation is None or (key := (key, situation)) in self._refused:
            return self._original(*args, **kwargs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if key not in self._graphs:
            self._calls[key] += 1
            if self._calls[key] <= WARM_CALLS:
                return self._measured(key, args, kwargs)
            if not self._capture(key, leaves, structure, options):
                return self._original(*args, **kwargs)
        self._graphs.move_to_end(key)
        return self._graphs[key].replay(tensors)

    def _drop_if_moved(self) -> None:
        self._check_addresses = False
        addresses = hash(tuple(tensor.data_ptr() for tensor in chain(self._model.parameters(), self._model.buffers())))
        if addresses != self._addresses:
            self.drop()
            self._addresses = addresses

    def _measured(self, key: Hashable, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
        """An ordinary call; without room for its activations a second time, no graph is made."""
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        output = self._original(*args, **kwargs)
        needed = torch.cuda.max_memory_allocated() - before
        unused = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        if needed > unused / 2:
            self._refused.add(key)
            self._note(
                f"no CUDA graph: it would hold {needed / 2**30:.1f} GB and {unused / 2**30:.1f} GB are free; a graph"
                " takes half of what is free at most"
            )
        return output

    def _capture(self, key: Hashable, leaves: list, structure: Any, options: dict[str, Any]) -> bool:
        while len(self._graphs) >= MOST_GRAPHS:
            self._graphs.popitem(last=False)
        static = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(static, structure)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads of this process may call CUDA meanwhile (NCCL's watchdog does).
            with (
                collective_counts.captured() as collectives,
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                output = self._original(*args, **kwargs, **{OPTIONS: options})
        except Exception as error:
            logging.exception("capture")
            self._refused.add(key)
            self._restart()
            self._note(f"no CUDA graph: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            return False
        inputs = [leaf for leaf in static if isinstance(leaf, torch.Tensor)]
        self._graphs[key] = Graph(graph, inputs, output, collectives)
        return True


def _key(leaves: list, structure: Any, options: dict[str, Any]) -> Hashable | None:
    """What a graph is kept for; None for a call that runs Python inside the forward, or takes what cannot be held."""
    if not _only_kernels(options):
        return None
    described: list[Hashable] = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            described.append((tuple(leaf.shape), leaf.dtype, leaf.stride(), leaf.device))
        elif isinstance(leaf, PLAIN):
            described.append(leaf)
        else:
            return None
    return (tuple(described), str(structure), repr(options.get("rope_options")))


def _only_kernels(options: dict[str, Any]) -> bool:
    override = options.get(OVERRIDE)
    if isinstance(override, ShardedAttention):
        override = override.previous
    return (
        (override is None or runs_torchs_kernel(override))
        and not any(options.get("patches", {}).values())
        and not any(options.get("patches_replace", {}).values())
        and not any(options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {}).values())
    )
