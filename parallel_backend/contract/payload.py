"""What a request carries: the objects of a sampling run, and the state of a MODEL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .random_state import RandomState

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
