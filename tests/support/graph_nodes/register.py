"""A node is a class with `make`; this gives it what ComfyUI asks of a node."""

from __future__ import annotations

from collections.abc import Callable


def node(registry: dict[str, type], returns: str, **inputs: tuple) -> Callable[[type], type]:
    """Register a class whose `make(self, **inputs)` gives one value of the type `returns`."""

    def register(cls: type) -> type:
        cls.INPUT_TYPES = classmethod(lambda _: {"required": inputs})
        cls.RETURN_TYPES, cls.FUNCTION, cls.CATEGORY = (returns,), "make", "xDiT/test"
        registry[cls.__name__] = cls
        return cls

    return register
