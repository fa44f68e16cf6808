"""Parallel Config's strategy: a dynamic combo that brings the degrees along, and reading what a prompt gives for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comfy_api.latest import io

from ..parallel_backend.contract.config import MAX_PATCHES, MAX_WARMUP_STEPS, ConfigError

STAGES_OFFERED = 16  # a prompt may name more
_NAMES = {
    "strategy": "strategy",
    **{f"strategy.{name}": name for name in ("ulysses", "ring", "cfg", "batch", "pipefusion")},
    **{f"strategy.pipefusion.{name}": name for name in ("patches", "warmup_steps")},
}
"""Input of a prompt → what it sets. The last part alone is how prompts named it before strategy brought it along."""
_FLAT_NAMES = {name: name for name in _NAMES.values()}


def strategy_input() -> io.Input:
    """`auto` has no inputs, `manual` the degrees; a pipefusion degree from 2 on brings patches and warmup_steps."""
    return io.DynamicCombo.Input(
        "strategy",
        options=[io.DynamicCombo.Option("auto", []), io.DynamicCombo.Option("manual", _degrees())],
        tooltip="auto picks the degrees from model, heads, CFG, size and devices, and says what it picked and why; it"
        " never takes pipefusion. manual shows the degrees; they must multiply to the number of devices.",
    )


def _degrees() -> list[io.Input]:
    return [
        _degree(
            "ulysses",
            "Splits the image's tokens and exchanges attention heads (all-to-all). The first choice; at most as many as"
            " the model has heads.",
        ),
        _degree("ring", "Splits the image's tokens and passes keys and values around. For more ranks than heads."),
        _degree("cfg", "Evaluates the positive and the negative prompt at the same time. 2 when CFG is above 1."),
        _degree("batch", "Divides the images of a latent batch; at most as many as it has images."),
        io.DynamicCombo.Input(
            "pipefusion",
            options=[
                io.DynamicCombo.Option(str(degree), _pipefusion_inputs() if degree > 1 else [])
                for degree in range(1, STAGES_OFFERED + 1)
            ],
            optional=True,
            tooltip="Divides the model's blocks: each device holds some of them, and parts of the image flow through."
            " For slow links and big models. It approximates: from 2 on, set patches and warmup_steps below.",
        ),
    ]


def _degree(name: str, tooltip: str) -> io.Input:
    # Optional: a prompt may leave a degree of 1 out, and former prompts name it without "strategy.".
    return io.Int.Input(name, default=1, min=1, max=64, optional=True, tooltip=tooltip)


def _pipefusion_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "patches",
            default=0,
            min=0,
            max=MAX_PATCHES,
            optional=True,
            tooltip="In how many parts the image flows through the devices. 0: chosen by size.",
        ),
        io.Int.Input(
            "warmup_steps",
            default=1,
            min=0,
            max=MAX_WARMUP_STEPS,
            optional=True,
            tooltip="How many first steps are computed exactly, without a gain in speed. The first evaluation of each"
            " prompt always is.",
        ),
    ]


def strategy_values(strategy: Any, others: dict[str, Any]) -> dict[str, Any]:
    """What a prompt gives for strategy, degrees, patches and warmup_steps; None: nothing, or a link not yet known.

    `strategy`: as ComfyUI nests it, or its bare value where it names no option. `others`: inputs that the schema does
    not have, which are those of former prompts ("ulysses"), and of a combo whose value is linked or not on offer
    ("strategy.pipefusion.patches"). Raises ConfigError for two values of one input, and for an unknown "strategy.…".
    """
    found: dict[str, Any] = dict.fromkeys(_FLAT_NAMES)
    for key, value in [*_leaves("strategy", strategy), *others.items()]:
        name = (_NAMES | _FLAT_NAMES).get(key)
        if name is None:
            if key.startswith("strategy."):
                raise ConfigError(f"{key} is no input of Parallel Config; possible: {', '.join(_NAMES)}")
            continue  # as ComfyUI does
        value = value if name == "strategy" else _number(value)
        if found[name] is not None and value is not None and found[name] != value:
            raise ConfigError(f"{name} is given twice, as {found[name]!r} and as {value!r}; leave out {name!r}")
        found[name] = value if found[name] is None else found[name]
    return found


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A dynamic combo is nested as {its own name: its value, name of an input of the option: value, …}."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(key, inner)
    else:
        yield name, value


def _number(value: Any) -> Any:
    """A whole number for the texts of a menu and for 2.0; everything else as it is, to be refused with its name."""
    if isinstance(value, str) and value.strip().isdecimal() or isinstance(value, float) and value.is_integer():
        return int(value)
    return value
