"""The messages between the host and the ranks, and nothing else.

Host → every rank, the same bytes: `ArenaMessage` (+ descriptor), `Prepare`, `Go`, `StepAnswer`, `Cancel`, `Discard`,
`Forward`, `Probe`, `Settle`, `FreeMemory`, `ForgetModels`, `ForgetDegrees`, `Ask`, `Shutdown`.
Rank → host: `Ready`, `Prepared`, `Rejected`, `Step`, `Finished`, `Failed`, `Probed`, `Settled`, `Heartbeat`,
`Standing`.

One request: the host sends `Prepare`; every rank unpickles it, makes the model resident and answers `Prepared` (or
`Rejected`: the request was bad, the group is healthy). Only when all ranks echoed the same identity does the host send
`Go`, after which collectives start. `Discard` ends a prepared request that will not run. A `StepAnswer` follows a
`Step` where the request says so.

Beside requests, from threads of their own in each rank: `Heartbeat` once a second, more often while it loads, and
`Standing` as the answer to `Ask`, also while the main thread is inside a collective.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

from ..transport.blobs import Span
from .config import REPLICATE, Degrees
from .process_settings import ProcessSettings
from .random_state import RandomState

# What a rank's main thread can be doing.
IDLE, LOADING, SAMPLING = "idle", "loading", "sampling"

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

IN_PLACE = "in_place"  # beside it in the state: what was done to the model itself


@dataclass(frozen=True)
class ArenaMessage:
    """New blobs; their memfd comes with the frame."""

    size: int
    spans: list[Span]


@dataclass(frozen=True)
class Prepare:
    """Read a request. `kind`: "sample" runs the whole guider in the ranks, "forward" serves single model calls,
    "preload" only reads weights, as long as it is not cancelled, and leaves those alone that a rank holds.
    `packs`: node packs to import first, name → file. `weights`: one of config.WEIGHTS, but not "auto".
    `patches`, `warmup_steps`: of PipeFusion, as in ParallelConfig. `parameters`: parameters of the model are part of
    the request. `settings`: those of ComfyUI's process; they hold while the request runs.
    """

    request: int
    kind: str
    stream: bytes
    modules: dict[bytes, bytes]
    packs: dict[str, str]
    degrees: Degrees
    attention: str
    compile: bool
    forget: list[bytes] = field(default_factory=list)
    keep_modules: list[bytes] = field(default_factory=list)
    weights: str = REPLICATE
    patches: int = 0
    warmup_steps: int = 1
    parameters: bool = False
    settings: ProcessSettings = field(default_factory=ProcessSettings.read)


@dataclass(frozen=True)
class Go:
    request: int


@dataclass(frozen=True)
class Discard:
    request: int


@dataclass(frozen=True)
class Forward:
    """One model call of a prepared "forward" request: pickled (arguments, keyword arguments).

    `method`: of the diffusion model, "" for its forward. `packs`: as in Prepare. `settings`: as there, for this call.
    """

    request: int
    method: str
    stream: bytes
    packs: dict[str, str]
    forget: list[bytes]
    settings: ProcessSettings = field(default_factory=ProcessSettings.read)


@dataclass(frozen=True)
class StepAnswer:
    """What a callback that is not ComfyUI's own made of step `number`'s tensors: x0 and x as in Step, None for what it
    left as it was; and the `guider`'s plain attributes (cfg) that it changed. `random`: as in Step, to go on from.
    """

    request: int
    number: int
    x0: Any
    x: Any
    random: RandomState
    guider: dict[str, Any]


@dataclass(frozen=True)
class Cancel:
    request: int


@dataclass(frozen=True)
class Probe:
    """Measure the links between the ranks and try the attention kernels. Each rank answers `Probed` or `Failed`."""

    request: int


@dataclass(frozen=True)
class Settle:
    """After a failure: finish what the device has queued, and answer Settled. Ranks out of step cannot."""

    request: int


@dataclass(frozen=True)
class FreeMemory:
    """`ranks` drop every weight and cache, or caches only; the next request loads again what it needs. Each rank, the
    others too, answers `Finished`, or `Failed`.
    """

    request: int
    ranks: tuple[int, ...]
    caches_only: bool = False


@dataclass(frozen=True)
class ForgetModels:
    """Drop the models with these identity keys and all that is known of them. Answered as `FreeMemory` is."""

    request: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class ForgetDegrees:
    """Give back the process groups of all degrees, and the memory that ranks share for their exchanges; the next
    request makes what it needs. Answered as `FreeMemory` is, which does this too unless it is about caches.
    """

    request: int


@dataclass(frozen=True)
class Ask:
    """Every rank answers with Standing. `stacks`: with its Python stack, else with its memory and models."""

    stacks: bool


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
    its device and `models`: (title, bytes of weights on the device) of those that it holds there.
    """

    stack: tuple[str, ...] = ()
    collectives: dict[str, int] = field(default_factory=dict)
    memory: Memory | None = None
    models: tuple[tuple[str, int], ...] = ()


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
    """What crosses for one `guider.outer_sample`: its arguments (`callback`: whether there is one), and the random
    state of ComfyUI's process. `answered`: whether the sampler waits for what the callback makes of a step's tensors.
    """

    guider: Any
    arguments: dict[str, Any]
    random: RandomState
    answered: bool = False


@dataclass
class Carried:
    """The objects of a request: `payload`, and what node packs changed in ComfyUI's process beside it.

    `replaced`: (module, qualified name, what ComfyUI's function or class of this name is now); `settings`: (module,
    attribute path, value) of the packs' own modules.
    """

    payload: Any
    replaced: list[tuple[str, str, Any]] = field(default_factory=list)
    settings: list[tuple[str, str, Any]] = field(default_factory=list)


def encode(message: Any) -> bytes:
    return pickle.dumps(message, protocol=5)


def decode(payload: bytes | bytearray) -> Any:
    return pickle.loads(payload)
