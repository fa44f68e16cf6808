"""Calls of the CUDA driver API. One that fails leaves no error behind that torch would find after its next kernel, as
one of the runtime API does.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

LIBRARY = "libcuda.so.1"


def driver_call(name: str, *arguments: object) -> None:
    """In torch's context. `arguments` are ctypes. Raises RuntimeError when it fails, or the driver has no such call."""
    if (code := _function(name)(*arguments)) != 0:
        raise RuntimeError(f"{name} returned CUresult {code}")


@functools.cache
def _function(name: str) -> Callable[..., int]:
    try:
        return getattr(ctypes.CDLL(LIBRARY), name)
    except (OSError, AttributeError) as error:
        raise RuntimeError(f"the CUDA driver has no {name}: {error}") from error
