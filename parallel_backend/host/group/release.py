"""Ranks give memory back: what they hold of weights and caches, or whole models."""

from __future__ import annotations

import time
from typing import Any

from ...contract.commands import ForgetDegrees, ForgetModels, FreeMemory
from ..base.errors import GroupError
from .process_group import ProcessGroup
from .replies import Answers

RELEASE_SECONDS = 60.0


def free(group: ProcessGroup, ranks: tuple[int, ...] | None = None, caches_only: bool = False) -> None:
    """`ranks`, or all, drop their weights and caches. The group has to be idle; it is ended if it does not answer.

    Raises GroupError, RequestRefused, OutOfMemory.
    """
    ranks = tuple(range(group.size)) if ranks is None else ranks
    number = group.next_request()
    _tell(group, number, FreeMemory(number, ranks, caches_only))
    group.held.freed(ranks, caches_only)


def forget(group: ProcessGroup, keys: set[str]) -> None:
    """All ranks forget the models with these identity keys. Raises as `free` does."""
    number = group.next_request()
    _tell(group, number, ForgetModels(number, tuple(sorted(keys))))
    group.held.forgotten(keys)


def forget_degrees(group: ProcessGroup) -> None:
    """All ranks give back what they hold for dividing work: process groups and buffers. Raises as `free` does."""
    number = group.next_request()
    _tell(group, number, ForgetDegrees(number))


def _tell(group: ProcessGroup, number: int, message: Any) -> None:
    answers = Answers(group, number)
    group.phase("freeing memory")
    group.send(message)
    deadline = time.monotonic() + RELEASE_SECONDS
    while not answers.complete():
        answers.take()
        if time.monotonic() > deadline:
            raise group.lose(lambda: GroupError(f"the ranks did not free their memory within {RELEASE_SECONDS:g} s"))
    answers.raise_failure()
