"""How many conditions the guided calls of a run evaluate, as far as that is known before it runs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import comfy.patcher_extension
import comfy.samplers
from comfy.patcher_extension import WrappersMP

NO_SKIP = "disable_cfg1_optimization"  # ComfyUI's option: the negative prompt is evaluated at cfg 1, too
CFG_PP = "cfg_pp"  # ComfyUI's samplers with this name or argument set NO_SKIP
MAY_SET_CFG = (WrappersMP.PREDICT_NOISE, WrappersMP.SAMPLER_SAMPLE)
COMFYUI = tuple(str(Path(comfy.samplers.__file__).parents[1] / part) for part in ("comfy/", "comfy_extras/"))


class Conditions(NamedTuple):
    """`expected` in most calls; `most`: that a call may have."""

    expected: int
    most: int


def count_conditions(guider: Any, sampler: Any, steered: bool) -> Conditions:
    """ComfyUI skips the negative prompt at cfg 1. A node's guider, sampler or wrapper may change cfg as it goes, or its
    callback (`steered`: there is one).
    """
    conditions = len(guider.conds)
    every = Conditions(conditions, conditions)
    cfg = getattr(guider, "cfg", None)
    if not set(guider.conds) <= {"positive", "negative"} or not isinstance(cfg, int | float):
        return every
    if not math.isclose(cfg, 1.0) or guider.model_options.get(NO_SKIP, False) or _skips_nothing(sampler):
        return every
    return Conditions(1, conditions if steered or _may_set_cfg(guider, sampler) else 1)


def _skips_nothing(sampler: Any) -> bool:
    """Whether it is known to evaluate both prompts at cfg 1."""
    function = _function(sampler)
    if function is None:
        return False
    unconditional = _names(function.__code__, NO_SKIP) and CFG_PP not in function.__code__.co_varnames
    return CFG_PP in function.__name__ or unconditional or bool(_options(sampler).get(CFG_PP))


def _may_set_cfg(guider: Any, sampler: Any) -> bool:
    """Whether code of a node decides about the cfg of a call, or may."""
    options = guider.model_options
    wrappers = [comfy.patcher_extension.get_all_wrappers(kind, options, is_model_options=True) for kind in MAY_SET_CFG]
    function, predict_noise = _function(sampler), getattr(guider, "predict_noise", None)
    return (
        any(wrappers)
        or function is None
        or not all(_is_comfyui(code) for code in (function, getattr(predict_noise, "__func__", predict_noise)))
    )


def _function(sampler: Any) -> FunctionType | None:
    """The sampling algorithm of ComfyUI's KSAMPLER; None for another kind of sampler."""
    if type(sampler) is not comfy.samplers.KSAMPLER:
        return None
    function = inspect.unwrap(sampler.sampler_function)
    return function if isinstance(function, FunctionType) else None


def _options(sampler: Any) -> dict[str, Any]:
    return getattr(sampler, "extra_options", {})


def _is_comfyui(function: Any) -> bool:
    return isinstance(function, FunctionType) and function.__code__.co_filename.startswith(COMFYUI)


def _names(code: CodeType, name: str) -> bool:
    """Whether `code`, or a function within it, mentions `name`."""
    return any(name in part.co_names or name in _constants(part) for part in _with_inner(code))


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def _constants(code: CodeType) -> Iterator[Any]:
    for constant in code.co_consts:
        yield from constant if isinstance(constant, tuple) else (constant,)
