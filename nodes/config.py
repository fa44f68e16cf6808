"""Parallel Config: which devices work on an image, and how it is divided over them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from ..parallel_backend.contract.config import (
    ATTENTION_CHOICES,
    COMPILE,
    UNSUPPORTED,
    WEIGHTS,
    ConfigError,
    Degrees,
    ParallelConfig,
)
from ..parallel_backend.host.base.devices import resolve
from .strategy_input import strategy_input, strategy_values

CATEGORY = "xDiT"
ParallelConfigSocket = io.Custom("XDIT_PARALLEL_CONFIG")


def config_input() -> io.Input:
    """The optional Parallel Config input of every other node."""
    return ParallelConfigSocket.Input(
        "parallel_config",
        optional=True,
        tooltip="Which devices to use and how to divide the work. Without one: every GPU, divided automatically.",
    )


class XDiTParallelConfig(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XDiTParallelConfig",
            display_name="Parallel Config",
            category=CATEGORY,
            description="Chooses the devices that work on one image together, and how it is divided over them.",
            search_aliases=["xdit", "multi gpu", "parallel", "ulysses", "ring", "usp"],
            inputs=[
                io.String.Input(
                    "devices",
                    default="auto",
                    tooltip="auto: every GPU ComfyUI sees, but for a small one beside large ones (two CPU ranks without"
                    " a GPU). Or ComfyUI's device numbers: 0,1,2,3. Or CPU ranks and their number: cpu:2.",
                ),
                strategy_input(),
                io.Combo.Input(
                    "attention",
                    options=list(ATTENTION_CHOICES),
                    tooltip="Attention kernel in the ranks, in rings too. auto: the exact one that is the fastest for"
                    " each shape, measured once. flash3: FlashAttention 3, for Hopper GPUs (pip install fa3-fwd).",
                    advanced=True,
                ),
                io.Combo.Input(
                    "unsupported",
                    options=list(UNSUPPORTED),
                    tooltip="What to do with a model that cannot be divided exactly over all devices: run it on fewer,"
                    " with a line in the log, or refuse.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "compile",
                    options=list(COMPILE),
                    default="auto",
                    optional=True,
                    tooltip="Compiles the model's blocks (torch.compile) and replays small images as CUDA graphs: the"
                    " same picture, faster steps. The first compiled step of a model takes up to a minute. auto: on"
                    " GPUs, for a model with which this ComfyUI has sampled 60 steps or that was compiled here before.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "weights",
                    options=list(WEIGHTS),
                    default="auto",
                    optional=True,
                    tooltip="replicate: every device holds the whole model. shard: each holds its share of every block,"
                    " and blocks are put together just in time. shard + offload: the shares rest in host memory. auto:"
                    " the first of these that fits.",
                    advanced=True,
                ),
            ],
            outputs=[ParallelConfigSocket.Output(display_name="parallel_config")],
            accept_all_inputs=True,  # else ComfyUI drops the degrees of prompts that name them as before
        )

    @classmethod
    def validate_inputs(cls, devices=None, strategy="", **others) -> bool:
        """Raises ConfigError, which ComfyUI reports once; a text that is returned, it repeats for every input."""
        _refuse_shifted_values(others)
        values = strategy_values(strategy, others)
        known = {name: others[name] for name in _CHOICES if others.get(name) is not None}
        if devices is not None:  # None is a link: what depends on it is checked when the node runs
            config = _config(devices, values, known)
            if config.strategy == "auto" or None not in (values[name] for name in _DEGREES):
                _check_number(config)
        return True

    @classmethod
    def execute(cls, devices, strategy="", **others) -> io.NodeOutput:
        _refuse_shifted_values(others)
        choices = {name: others[name] for name in _CHOICES if name in others}
        config = _config(devices, strategy_values(strategy, others), choices)
        _check_number(config)
        return io.NodeOutput(config)


_DEGREES = tuple(axis.name for axis in fields(Degrees))
_CHOICES = ("attention", "unsupported", "compile", "weights")


def _refuse_shifted_values(choices: dict[str, Any]) -> None:
    """ComfyUI's page reads a saved workflow's values by their places, which moved when strategy became dynamic."""
    for name in _CHOICES:
        if isinstance(choices.get(name), (int, float)):
            raise ConfigError(
                f"{name} is {choices[name]!r}: this workflow was saved before the degrees became part of strategy, so"
                " its values stand in wrong places; put a new Parallel Config in place of this one and set it again"
            )


def _config(devices, values: dict[str, Any], choices: dict[str, Any]) -> ParallelConfig:
    """`values`: of strategy_values, None for what was left out. Raises ConfigError."""
    given = {name: value for name, value in values.items() if value is not None}
    degrees = Degrees(**{name: given.pop(name) for name in _DEGREES if name in given})
    return ParallelConfig(devices, degrees=degrees, **given, **choices)


def _check_number(config: ParallelConfig) -> None:
    """Raises ConfigError where this machine lacks the devices, or manual degrees do not multiply to their number."""
    available = resolve(config.devices).size
    if config.strategy == "manual" and config.degrees.ranks != available:
        raise ConfigError(
            f"{config.degrees} needs {config.degrees.ranks} device(s), devices {config.devices!r} are {available}; the"
            f" degrees must multiply to {available}"
        )
