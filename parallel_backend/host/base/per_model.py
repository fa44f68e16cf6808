"""What is worked out once for a model object that ComfyUI keeps from prompt to prompt."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any


def once_per_model(function: Callable) -> Callable:
    """`function(model, *others)` with its result kept as long as the model and while `others` are equal: it must depend
    on nothing else that can change.
    """
    results: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def remembered(model: Any, *others: Any) -> Any:
        known = results.get(model)
        if known is None or known[0] != others:
            results[model] = known = others, function(model, *others)
        return known[1]

    return remembered
