"""Turning what a graph holds into what samples in parallel: a MODEL, or the MODEL inside a GUIDER."""

from __future__ import annotations

import copy
from typing import Any

from ...contract.config import ConfigError, ParallelConfig
from ..base.devices import DeviceSet, resolve
from .seam import Seam
from .weightless_model import XDiTModelPatcher


def as_parallel(model: Any, config: ParallelConfig | None, seam: Seam) -> XDiTModelPatcher:
    """`model` as a parallel MODEL, sampled by `seam`; the sampler's `config` wins over the loader's.

    Raises NoRecipe for a MODEL that cannot be loaded again, ConfigError when loader and sampler name other devices.
    """
    if not isinstance(model, XDiTModelPatcher):
        return XDiTModelPatcher.from_patcher(model, config, seam)
    loaded = model.parallel_config
    if config is not None and loaded is not None and resolve(config.devices) != resolve(loaded.devices):
        raise ConfigError(
            f"the loader's Parallel Config names {resolve(loaded.devices)}, the sampler's {resolve(config.devices)};"
            " one workflow runs on one set of devices: connect the same Parallel Config to both"
        )
    return model.with_config(config)


def with_parallel_model(guider: Any, config: ParallelConfig | None, seam: Seam) -> Any:
    """A copy of `guider` that samples its MODEL in parallel. Raises as `as_parallel` does."""
    parallel = copy.copy(guider)
    parallel.model_patcher = as_parallel(guider.model_patcher, config, seam)
    if guider.model_options is guider.model_patcher.model_options:
        parallel.model_options = parallel.model_patcher.model_options
    return parallel


def devices_of(model: XDiTModelPatcher) -> DeviceSet:
    """Where `model` samples. Raises ConfigError."""
    return resolve((model.parallel_config or ParallelConfig()).devices)
