"""What a rank tells ComfyUI's process. encoding.py says how a request goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .random_state import RandomState

# What a rank's main thread can be doing.
IDLE, LOADING, SAMPLING = "idle", "loading", "sampling"


@dataclass(frozen=True)
class Ready:
    rank: int
    pid: int
    device: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Reading:
    """How far a rank is with the weights that a request needs and that it did not hold: bytes `read`, `of` how many."""

    request: int
    read: int
    of: int


@dataclass(frozen=True)
class Heartbeat:
    """A rank lives. `activity`: what its main thread does; `progress` grows with step boundaries and collectives;
    `reading`: while it loads.
    """

    activity: str
    progress: int
    reading: Reading | None = None


@dataclass(frozen=True)
class Memory:
    """Of a rank's device, in bytes: what is free for this rank (its own caches included), and the whole. Of a GPU also
    what this rank's torch has `reserved`, of which `cached` is in no use, and free for this rank only.
    """

    free: int
    total: int
    reserved: int = 0
    cached: int = 0


@dataclass(frozen=True)
class Standing:
    """Where a rank's main thread is (`stack`: its innermost frames last; `collectives` as in Failed), or the memory of
    its device and `models`: (title, bytes of weights on the device) of those that it holds there. `question`: the
    number of the Ask that this answers.
    """

    stack: tuple[str, ...] = ()
    collectives: dict[str, int] = field(default_factory=dict)
    memory: Memory | None = None
    models: tuple[tuple[str, int], ...] = ()
    question: int = 0

    @property
    def device_memory(self) -> Memory:
        """`memory`, which only an answer to a question without stacks holds."""
        assert self.memory is not None, "this rank was asked for its stack, not for its memory"
        return self.memory


@dataclass(frozen=True)
class Prepared:
    """`echo`: (identity key, patches uuid) of every MODEL in the request, in order of appearance. `read`: bytes of
    their weights that were not there yet.
    """

    request: int
    rank: int
    echo: tuple
    read: int = 0


@dataclass(frozen=True)
class Raised:
    """An exception in a rank. `at`: time.monotonic(), the same clock in every process; `out_of_memory`: it was that."""

    reason: str
    traceback: str
    at: float
    out_of_memory: bool


@dataclass(frozen=True)
class Rejected:
    """The request could not be read, its model not loaded, or what nodes did to ComfyUI's model not followed. `stage`:
    "read", "load" or "follow". No collective has started.
    """

    request: int
    rank: int
    stage: str
    error: Raised


@dataclass(frozen=True)
class Step:
    """Progress of the sampler: `step` of `total`; x0 and x are the callback's tensors as (dtype, shape, bytes), x0 None
    where both are the same one. `number`: counted from 0, for an answer; `random`: of a rank that waits for one.
    """

    request: int
    rank: int
    step: int
    total: int
    x0: Any
    x: Any
    number: int = 0
    random: RandomState | None = None


@dataclass(frozen=True)
class Finished:
    """The end of a request that ran. `result`: packed tensors of rank 0; `cancelled`: stopped at a step boundary;
    `changes`: what rank 0's run left in the request's objects (transport.returned); `collectives`: as in Failed.
    """

    request: int
    rank: int
    cancelled: bool = False
    result: Any = None
    changes: bytes = b""
    notes: tuple[str, ...] = ()
    collectives: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """A rank raised after `Go`. `collectives`: process group → how many collectives this rank had begun on it."""

    request: int
    rank: int
    error: Raised
    collectives: dict[str, int]


@dataclass(frozen=True)
class Settled:
    request: int
    rank: int
