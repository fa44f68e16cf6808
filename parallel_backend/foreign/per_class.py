"""What is worked out once for each class."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def once_per_class(function: Callable[[type], Result]) -> Callable[[type], Result]:
    """`function(cls)` with its result kept: it must depend on nothing that can change."""
    return functools.cache(function)
