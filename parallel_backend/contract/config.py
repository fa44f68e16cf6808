"""What a person asks for: devices, strategy, degrees. Plain frozen data, checked where it is made."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields

from .attention_kernels import CHOICES as ATTENTION_CHOICES

STRATEGIES = ("auto", "manual")
COMPILE = ("auto", "on", "off")
UNSUPPORTED = ("run on one device", "refuse")
REPLICATE, SHARD, SHARD_OFFLOAD = "replicate", "shard", "shard + offload"
WEIGHTS = ("auto", REPLICATE, SHARD, SHARD_OFFLOAD)
MAX_PATCHES = 64
MAX_WARMUP_STEPS = 10_000
DEFAULT_CPU_RANKS = 2
MAX_CPU_RANKS = 64
DEVICES_ADVICE = "use auto, ComfyUI's device numbers such as 0,1,2,3, or cpu:2"
SHOWN = 80  # characters of a text that is repeated in an error

_CPU = re.compile(r"cpu(?::([0-9]{1,9}))?")
_NUMBER = re.compile(r"[0-9]{1,9}")


class ConfigError(ValueError):
    """A parallel configuration that cannot work; the message says what was asked, what is possible, what to do."""


@dataclass(frozen=True)
class Degrees:
    """How many ways a request is divided along each axis; their product is the number of ranks that take part.

    Sources: Ulysses arXiv 2309.14509, ring attention arXiv 2310.01889, USP (both) arXiv 2405.07719, PipeFusion
    arXiv 2405.14430; cfg: the conditions of classifier-free guidance; batch: the rows of a latent batch.
    """

    ulysses: int = 1
    ring: int = 1
    cfg: int = 1
    batch: int = 1
    pipefusion: int = 1

    def __post_init__(self):
        for axis in fields(self):
            value = getattr(self, axis.name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{axis.name} degree is {value!r}; a degree is a whole number from 1 on")

    @property
    def sequence(self) -> int:
        return self.ulysses * self.ring

    @property
    def shards(self) -> int:
        """How many ranks share one copy of the blocks where weights are divided: those of a sequence, which run the
        same blocks; where no sequence is divided, those of all conditions and images. Not with PipeFusion.
        """
        return self.sequence if self.sequence > 1 else self.cfg * self.batch

    @property
    def ranks(self) -> int:
        return math.prod(getattr(self, axis.name) for axis in fields(self))

    def __str__(self) -> str:
        active = [f"{axis.name} {getattr(self, axis.name)}" for axis in fields(self) if getattr(self, axis.name) > 1]
        return " × ".join(active) or "one device"


@dataclass(frozen=True)
class ParallelConfig:
    """One Parallel Config node. `degrees` counts for strategy "manual" only.

    `compile`: torch.compile for the model's blocks and CUDA graphs where they are safe; "auto": once it pays.
    `patches`, `warmup_steps`: of PipeFusion, in how many parts a sequence flows through the stages (0: chosen), and how
    many first steps are computed exactly. `weights`: whether each device holds the whole model or a share of it.
    """

    devices: str = "auto"
    strategy: str = "auto"
    degrees: Degrees = Degrees()
    attention: str = "auto"
    unsupported: str = UNSUPPORTED[0]
    compile: str = "auto"
    patches: int = 0
    warmup_steps: int = 1
    weights: str = "auto"

    @property
    def may_leave_out(self) -> bool:
        """Whether fewer devices than configured will do."""
        return self.strategy == "auto" and self.unsupported != "refuse"

    def __post_init__(self):
        parse_devices(self.devices)
        if not isinstance(self.degrees, Degrees):
            raise ConfigError(f"degrees is {self.degrees!r}; use Degrees(ulysses, ring, cfg, batch, pipefusion)")
        for name, allowed in (
            ("strategy", STRATEGIES),
            ("attention", ATTENTION_CHOICES),
            ("unsupported", UNSUPPORTED),
            ("compile", COMPILE),
            ("weights", WEIGHTS),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; possible: {', '.join(allowed)}")
        if self.strategy == "manual" and self.degrees.pipefusion > 1 and self.degrees.ring > 1:
            raise ConfigError(
                f"{self.degrees}: PipeFusion keeps the keys of the whole sequence on a device, which a ring divides;"
                " use ulysses inside a stage: set ring to 1"
            )
        for name, most in (("patches", MAX_PATCHES), ("warmup_steps", MAX_WARMUP_STEPS)):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= most:
                raise ConfigError(f"{name} is {value!r}; possible: whole numbers from 0 to {most}")


def parse_devices(text: str) -> tuple[str, tuple[int, ...]]:
    """("auto", ()), ("cpu", ranks 0..n-1) or ("gpu", ComfyUI's device numbers). Raises ConfigError."""
    if not isinstance(text, str):
        raise ConfigError(f"devices is {text!r}; {DEVICES_ADVICE}")
    text = text.strip().lower()
    if text in ("", "auto"):
        return "auto", ()
    match = _CPU.fullmatch(text)
    if match:
        count = int(match[1] or DEFAULT_CPU_RANKS)
        if not 1 <= count <= MAX_CPU_RANKS:
            raise ConfigError(f"devices {text!r}: {count} CPU ranks; possible: 1 to {MAX_CPU_RANKS}")
        return "cpu", tuple(range(count))
    numbers = [part.strip() for part in text.split(",")]
    if not all(_NUMBER.fullmatch(number) for number in numbers):
        raise ConfigError(f"devices {_short(text)!r} is not understood; {DEVICES_ADVICE}")
    indices = tuple(int(number) for number in numbers)
    if len(set(indices)) != len(indices):
        raise ConfigError(f"devices {_short(text)!r} names a device twice; name each once")
    return "gpu", indices


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
