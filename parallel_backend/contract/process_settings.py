"""torch's settings that hold for a whole process and change what is computed, or how fast."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import torch


class Setting(NamedTuple):
    name: str
    get: Callable[[], Any]
    put: Callable[[Any], None]


def _attribute(path: str) -> Setting:
    owner, _, name = path.rpartition(".")
    return Setting(f"torch.{path}", partial(attrgetter(path), torch), partial(_put_attribute, owner, name))


def _put_attribute(owner: str, name: str, value: Any) -> None:
    setattr(attrgetter(owner)(torch), name, value)


def _attention_kernel(name: str) -> Setting:
    cuda = torch.backends.cuda
    return Setting(
        f"torch.backends.cuda.{name}_enabled", getattr(cuda, f"{name}_enabled"), getattr(cuda, f"enable_{name}")
    )


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


# The old names of TF32's setting before the new ones (torch 2.9), which an old one sets as well.
SETTINGS = (
    Setting("torch.float32_matmul_precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    _attribute("backends.cuda.matmul.allow_tf32"),
    _attribute("backends.cudnn.allow_tf32"),
    _attribute("backends.fp32_precision"),
    _attribute("backends.cuda.matmul.fp32_precision"),
    _attribute("backends.cudnn.fp32_precision"),
    _attribute("backends.cudnn.conv.fp32_precision"),
    _attribute("backends.mkldnn.matmul.fp32_precision"),
    _attribute("backends.cuda.matmul.allow_fp16_reduced_precision_reduction"),
    _attribute("backends.cuda.matmul.allow_bf16_reduced_precision_reduction"),
    _attribute("backends.cuda.matmul.allow_fp16_accumulation"),
    _attribute("backends.cudnn.enabled"),
    _attribute("backends.cudnn.benchmark"),
    _attribute("backends.cudnn.deterministic"),
    Setting(
        "torch.use_deterministic_algorithms",
        _deterministic,
        lambda state: torch.use_deterministic_algorithms(state[0], warn_only=state[1]),
    ),
    Setting("torch.default_dtype", torch.get_default_dtype, torch.set_default_dtype),
    _attention_kernel("flash_sdp"),
    _attention_kernel("mem_efficient_sdp"),
    _attention_kernel("math_sdp"),
    _attention_kernel("cudnn_sdp"),
    Setting(
        "torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp",
        torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed,
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp,
    ),
)


@dataclass(frozen=True)
class ProcessSettings:
    """(name, value) of every setting that this torch has and can tell: it raises for an old name of TF32's once a new
    one was set.
    """

    values: tuple[tuple[str, Any], ...]

    @classmethod
    def read(cls) -> ProcessSettings:
        """This process's."""
        values = []
        for setting in SETTINGS:
            with contextlib.suppress(AttributeError, RuntimeError):
                values.append((setting.name, setting.get()))
        return cls(tuple(values))

    def unlike(self, other: ProcessSettings) -> list[str]:
        """The names of settings that differ from `other`'s."""
        theirs = dict(other.values)
        return [name for name, value in self.values if theirs.get(name, value) != value]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """They hold in this process while the context lasts; those that hold already are not touched."""
        own = ProcessSettings.read()
        changed = self.unlike(own)
        self._put()
        try:
            yield
        finally:
            if changed:
                own._put()

    def _put(self) -> None:
        """One at a time, since one may set others."""
        wanted = dict(self.values)
        for setting in SETTINGS:
            if setting.name in wanted and _differs(setting, wanted[setting.name]):
                setting.put(wanted[setting.name])


def _differs(setting: Setting, wanted: Any) -> bool:
    try:
        return setting.get() != wanted
    except RuntimeError:  # as in ProcessSettings
        return True
