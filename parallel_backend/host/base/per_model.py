"""What is worked out once for a model object that ComfyUI keeps from prompt to prompt."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any


def once_per_model(function: Callable) -> Callable:
    """`function(model, *others)` with its result kept as long as the model: it must depend on nothing else that can
    change.
    """
    results: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def remembered(model: Any, *others: Any) -> Any:
        if model not in results:
            results[model] = function(model, *others)
        return results[model]

    return remembered
