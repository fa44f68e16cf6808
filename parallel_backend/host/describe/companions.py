"""The models that a run brings beside its MODEL: ControlNets, GLIGEN, what patches hold, a guider's second MODEL."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.model_patcher
import comfy.sampler_helpers

from ...loading.parameter_source import stored_parameters
from .description import STATE_NOT_SENT


def companions(guider: Any) -> list[comfy.model_patcher.ModelPatcher]:
    """Their patchers, each model once."""
    patcher = guider.model_patcher
    in_conditions, _ = comfy.sampler_helpers.get_additional_models(guider.conds, patcher.model_dtype())
    waiting = [
        *in_conditions,
        *comfy.sampler_helpers.get_additional_models_from_model_options(guider.model_options),
        *(value for value in vars(guider).values() if isinstance(value, comfy.model_patcher.ModelPatcher)),
        patcher,
    ]
    by_model: dict[int, comfy.model_patcher.ModelPatcher] = {}
    while waiting:
        one = waiting.pop()
        if id(one.model) not in by_model:
            by_model[id(one.model)] = one
            waiting += [
                inner for key, sent in one.additional_models.items() if key not in STATE_NOT_SENT for inner in sent
            ]
    del by_model[id(patcher.model)]
    return list(by_model.values())


def companion_bytes(guider: Any) -> int:
    """Bytes on each device that takes part: the weights of companions, and what they need to work."""
    _, working = comfy.sampler_helpers.get_additional_models(guider.conds, guider.model_patcher.model_dtype())
    return int(working) + sum(_weights(one) for one in companions(guider))


def _weights(patcher: Any) -> int:
    """A weightless MODEL's own count is 0: its weights lie in the ranks."""
    if isinstance(patcher.model, comfy.model_base.BaseModel):
        return sum(one.nbytes for one in stored_parameters(patcher.model).values())
    return patcher.model_size()
