"""What a model call in patches computes once, for all of them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from ..modules import replaced
from .stages import StagedBlock


class Once:
    """Outputs of modules from the first patch of a model call to its end."""

    def __init__(self):
        self._outputs: dict[tuple[Hashable, int], Any] = {}
        self._arguments: dict[str, dict[str, Any]] = {}
        self._calls: Counter[Hashable] = Counter()

    def clear(self) -> None:
        """A model call begins, or ends."""
        self._outputs.clear()
        self._arguments.clear()

    def begin_run(self) -> None:
        """The model's forward begins, with the same calls as before."""
        self._calls.clear()

    def of(self, module: Hashable, compute: Callable[[], Any]) -> Any:
        """The output of `module` in the first run, from its call with the same number: there, `compute()`."""
        place = module, self._calls[module]
        self._calls[module] += 1
        if place not in self._outputs:
            self._outputs[place] = compute()
        return self._outputs[place]

    @contextlib.contextmanager
    def inside(self, block: StagedBlock, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """While the block runs, the submodules in `block.once` give what they gave for the first patch.

        Gives those of the first patch's arguments to call the block with. A submodule knows its input by identity and
        computes for any other. To a compiler what it gives is one more tensor from outside.
        """
        first = self._arguments.setdefault(block.path, {name: arguments[name] for name, _ in block.once})
        with contextlib.ExitStack() as contexts:
            for name, module in block.once:
                compute, known = module.forward, first[name]
                output = self.of(module, lambda compute=compute, known=known: compute(known))
                contexts.enter_context(replaced(module, "forward", _given(output, known, compute)))
            yield first


def _given(output: Any, known: Any, compute: Callable) -> Callable:
    def forward(value):
        return output if value is known else compute(value)

    return forward
