"""Objects that cannot be pickled, cannot be rebuilt, or make trouble while someone tries."""

import socket
import sys
import threading

import torch


class RaisesInRank:
    """Can be pickled; raises where it is rebuilt."""

    def __reduce__(self):
        return _raise, ("not in this process",)


class RaisesWhilePickled:
    """Raises something unusual while it is pickled."""

    def __reduce__(self):
        raise KeyError("no")


class Nested:
    """A list in a list in a list …, deeper than pickle can follow."""

    def __init__(self):
        self.inner: list = []
        for _ in range(3 * sys.getrecursionlimit()):
            self.inner = [self.inner]


def _raise(text):
    raise RuntimeError(text)


def _generator():
    yield 1


UNSENDABLE = {
    "lock": threading.Lock,
    "file": lambda: open(__file__),
    "thread": threading.current_thread,
    "generator": _generator,
    "socket": socket.socket,
    "frame": sys._getframe,
    "module on meta": lambda: torch.nn.Linear(4, 4, device="meta"),
    "tensor on meta": lambda: torch.empty(4, device="meta"),
    "sparse tensor": lambda: torch.eye(4).to_sparse(),
    "deep list": Nested,
    "raises while pickled": RaisesWhilePickled,
    "raises in the rank": RaisesInRank,
    "condition of a thread": threading.Condition,
}
