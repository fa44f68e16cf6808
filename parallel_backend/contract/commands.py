"""What ComfyUI's process tells every rank, the same bytes to all. encoding.py says how a request goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..transport.blobs import Span
from .config import REPLICATE, Degrees
from .process_settings import ProcessSettings
from .random_state import RandomState


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
    the request. `settings`: those of ComfyUI's process; they hold while the request runs. `plans`: the sharding plans
    that node packs registered there (PackPlan), all of them.
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
    plans: tuple[Any, ...] = ()
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
    """Every rank answers with Standing. `stacks`: with its Python stack, else with its memory and models. `number`: of
    the question, which its answer repeats.
    """

    stacks: bool
    number: int = 0


@dataclass(frozen=True)
class Shutdown:
    pass
