"""How long things may take: seconds, each settable in ComfyUI's environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import overload

from ...contract.config import ConfigError

COLLECTIVE_MARGIN = 60.0


@dataclass(frozen=True)
class Limits:
    """Seconds. `start`: until every rank is ready; `silence`: without a sign of life of a rank; `stall`: without
    progress inside a model call; `loading`: without progress while a request or weights are read; `collective`:
    torch.distributed's own limit, after ours; `stop`: an orderly end; `idle`, `idle_end`: until an idle group drops its
    weights, and until it ends (None: never).
    """

    start: float = 180.0
    silence: float = 30.0
    stall: float = 600.0
    loading: float = 600.0
    collective: float = 600.0 + COLLECTIVE_MARGIN
    stop: float = 5.0
    idle: float | None = None
    idle_end: float | None = None

    @classmethod
    def from_environment(cls) -> Limits:
        """From XDIT_START_TIMEOUT, XDIT_HEARTBEAT_TIMEOUT, XDIT_STALL_TIMEOUT, XDIT_LOADING_TIMEOUT,
        XDIT_COLLECTIVE_TIMEOUT, XDIT_IDLE_SECONDS and XDIT_IDLE_END_SECONDS.

        Raises ConfigError.
        """
        stall = _seconds("XDIT_STALL_TIMEOUT", cls.stall)
        return cls(
            start=_seconds("XDIT_START_TIMEOUT", cls.start),
            silence=_seconds("XDIT_HEARTBEAT_TIMEOUT", cls.silence),
            stall=stall,
            loading=_seconds("XDIT_LOADING_TIMEOUT", stall),
            collective=_seconds("XDIT_COLLECTIVE_TIMEOUT", stall + COLLECTIVE_MARGIN),
            idle=_seconds("XDIT_IDLE_SECONDS", cls.idle),
            idle_end=_seconds("XDIT_IDLE_END_SECONDS", cls.idle_end),
        )


@overload
def _seconds(name: str, default: float) -> float: ...


@overload
def _seconds(name: str, default: float | None) -> float | None: ...


def _seconds(name: str, default: float | None) -> float | None:
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise ConfigError(f"{name} is {text!r}; set it to a number of seconds above 0, or leave it out")
    return value
