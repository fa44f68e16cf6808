"""The messages between the host and the ranks, and nothing else.

Host → every rank, the same bytes: `ArenaMessage` (+ descriptor), `Prepare`, `Go`, `Cancel`, `Discard`, `Forward`,
`Probe`, `Shutdown`.
Rank → host: `Ready`, `Prepared`, `Rejected`, `Step`, `Finished`, `Failed`, `Probed`.

One request: the host sends `Prepare`; every rank unpickles it, makes the model resident and answers `Prepared` (or
`Rejected`: the request was bad, the group is healthy). Only when all ranks echoed the same identity does the host send
`Go`, after which collectives start. `Discard` ends a prepared request that will not run.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

from .config import Degrees
from .transport.blobs import Span

# What makes up a host patcher's state, beside its model; everything travels with each request.
PATCHER_STATE = (
    "patches",
    "patches_uuid",
    "object_patches",
    "weight_wrapper_patches",
    "model_options",
    "force_cast_weights",
    "attachments",
    "additional_models",
    "callbacks",
    "wrappers",
    "injections",
    "skip_injection",
    "hook_patches",
    "hook_patches_backup",
    "current_hooks",
    "forced_hooks",
    "hook_mode",
    "is_clip",
)


@dataclass(frozen=True)
class ArenaMessage:
    """New blobs; their memfd comes with the frame."""

    size: int
    spans: list[Span]


@dataclass(frozen=True)
class Prepare:
    """Read a request. `kind`: "sample" runs the whole guider in the ranks, "forward" serves single model calls."""

    request: int
    kind: str
    stream: bytes
    modules: dict[bytes, bytes]
    imports: dict[str, tuple[str, bool]]
    degrees: Degrees
    attention: str
    forget: list[bytes] = field(default_factory=list)
    keep_modules: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Go:
    request: int


@dataclass(frozen=True)
class Discard:
    request: int


@dataclass(frozen=True)
class Forward:
    """One model call of a prepared "forward" request: pickled (arguments, keyword arguments)."""

    request: int
    stream: bytes
    forget: list[bytes]


@dataclass(frozen=True)
class Cancel:
    request: int


@dataclass(frozen=True)
class Probe:
    """Measure the links between the ranks and try the attention kernels. Each rank answers `Probed` or `Failed`."""

    request: int


@dataclass(frozen=True)
class Shutdown:
    pass


@dataclass(frozen=True)
class Ready:
    rank: int
    pid: int
    device: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Prepared:
    """`echo`: (identity key, patches uuid) of every MODEL in the request, in order of appearance."""

    request: int
    rank: int
    echo: tuple


@dataclass(frozen=True)
class Rejected:
    """The request could not be read or its model not loaded. `stage`: "read" or "load". No collective has started."""

    request: int
    rank: int
    stage: str
    reason: str
    traceback: str


@dataclass(frozen=True)
class Step:
    """Progress of the sampler: `step` of `total`; x0 and x are the callback's tensors as (dtype, shape, bytes)."""

    request: int
    rank: int
    step: int
    total: int
    x0: Any
    x: Any


@dataclass(frozen=True)
class Finished:
    """The end of a request that ran. `result`: packed tensors of rank 0; `cancelled`: stopped at a step boundary."""

    request: int
    rank: int
    cancelled: bool = False
    result: Any = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """A rank raised after `Go`."""

    request: int
    rank: int
    reason: str
    traceback: str


@dataclass(frozen=True)
class Exchanged:
    """An all-to-all among `ranks`: bytes per second that this rank sent (it received as many), seconds of a small one,
    and whether every byte arrived as it was sent.
    """

    ranks: tuple[int, ...]
    bandwidth: float
    latency: float
    intact: bool


@dataclass(frozen=True)
class KernelTrial:
    """An attention kernel on this rank's device; `fault` says why it cannot be used, None when it can."""

    name: str
    fault: str | None


@dataclass(frozen=True)
class Probed:
    """`exchanges`: those that this rank took part in, pairs first, then all ranks where there are more than two."""

    request: int
    rank: int
    exchanges: tuple[Exchanged, ...]
    kernels: tuple[KernelTrial, ...]


@dataclass
class SampleRequest:
    """What crosses for one `guider.outer_sample`: its arguments (`callback`: whether there is one), and the host's
    random state: (CPU state, accelerator state or None) as uint8 tensors.
    """

    guider: Any
    arguments: dict[str, Any]
    rng: tuple[Any, Any]


def encode(message: Any) -> bytes:
    return pickle.dumps(message, protocol=5)


def decode(payload: bytes | bytearray) -> Any:
    return pickle.loads(payload)
