"""Bounded waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")


def wait_until(what: Callable[[], Value], seconds: float = 60) -> Value:
    """What `what` gives once it gives something true. Raises AssertionError when that takes longer."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
    return value


def answered_status(client: Any) -> dict[str, Any]:
    """/xdit/status once every rank answers: on a busy machine one may take longer than the route waits."""

    def answered() -> dict[str, Any] | None:
        status = client.get("/xdit/status")
        return status if all(rank["models"] is not None for rank in status["ranks"]) else None

    return wait_until(answered)
