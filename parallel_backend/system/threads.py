"""Threads beside the main one that somebody relies on: what ends one of them is never silent."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any


def watched_thread(
    name: str, function: Callable[..., None], *arguments: Any, failed: Callable[[BaseException], None]
) -> threading.Thread:
    """Start a daemon thread for `function(*arguments)`. What that raises is logged with its traceback, and then
    `failed` is called with it, in the same thread.
    """

    def run() -> None:
        try:
            function(*arguments)
        except BaseException as error:
            logging.critical("xDiT: the thread %s ended", name, exc_info=True)
            failed(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def vital_thread(name: str, function: Callable[..., None], *arguments: Any) -> threading.Thread:
    """`watched_thread` of a rank: the whole process ends with it, which ComfyUI sees, instead of living on half."""
    return watched_thread(name, function, *arguments, failed=lambda error: os._exit(1))
