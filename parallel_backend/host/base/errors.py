"""How a prompt in the ranks can fail."""

from __future__ import annotations


class GroupError(RuntimeError):
    """The process group is lost; the next prompt starts a new one. `rank`: the first that failed, where it is known;
    `lasting`: another start would fail alike.
    """

    def __init__(self, message: str, rank: int | None = None, lasting: bool = False):
        super().__init__(message)
        self.rank = rank
        self.lasting = lasting


class RequestRefused(RuntimeError):
    """The ranks refused a request, or all of them failed alike; the group is healthy."""


class OutOfMemory(RuntimeError):
    """A device had too little memory. `group_lives`: the ranks are in step, so the same group can try again; `final`:
    the run cannot be tried again.
    """

    def __init__(self, message: str, group_lives: bool, final: bool = False):
        super().__init__(message)
        self.group_lives = group_lives
        self.final = final
