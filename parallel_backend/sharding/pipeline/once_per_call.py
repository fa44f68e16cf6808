"""What a model call in patches computes once, for all of them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch

from ..engine.precomputed import given
from ..plan.modules import blocks_if_any, function_at
from .stages import StagedBlock


def callables_at(model: torch.nn.Module, path: str) -> list[tuple[Any, str]]:
    """Owner and name of what a path of Plan.once means; none for a module that this model does not have.

    Raises ShardingError for a function that does not exist.
    """
    if ":" in path:
        module_name, _, name = path.partition(":")
        function_at(path)
        return [(importlib.import_module(module_name), name)]
    if inspect.ismethod(getattr(model, path, None)):
        return [(model, path)]
    return [(module, "forward") for module in blocks_if_any(model, path)]


class Once:
    """Outputs of callables from the first patch of a model call to its end. `active`: such a call is in progress."""

    def __init__(self):
        self.active = False
        self._outputs: dict[tuple[Hashable, int], Any] = {}
        self._arguments: dict[str, dict[str, Any]] = {}
        self._calls: Counter[Hashable] = Counter()

    @contextlib.contextmanager
    def model_call(self) -> Iterator[None]:
        self.active = True
        try:
            yield
        finally:
            self.active = False
            self._outputs.clear()
            self._arguments.clear()

    def begin_run(self) -> None:
        """The model's forward begins, with the same calls as before."""
        self._calls.clear()

    def of(self, who: Hashable, compute: Callable[[], Any]) -> Any:
        """The output of `who` in the first run, from its call with the same number: there, `compute()`."""
        place = who, self._calls[who]
        self._calls[who] += 1
        if place not in self._outputs:
            self._outputs[place] = compute()
        return self._outputs[place]

    @contextlib.contextmanager
    def inside(self, block: StagedBlock, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """While the block runs, the submodules in `block.once` give what they gave for the first patch.

        Gives those of the first patch's arguments to call the block with.
        """
        names = {one.argument for one in block.once}
        first = self._arguments.setdefault(block.path, {name: arguments[name] for name in names})
        with contextlib.ExitStack() as contexts:
            for one in block.once:
                if one.in_use(arguments):
                    known = first[one.argument]
                    output = self.of(one.module, functools.partial(one.module.forward, known))
                    contexts.enter_context(given(one.module, output, known))
            yield first
