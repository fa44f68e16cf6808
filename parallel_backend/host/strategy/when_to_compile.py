"""Whether the ranks compile a model: what was asked for, or, for `auto`, whether it pays."""

from __future__ import annotations

import logging
import re
from collections import Counter

import torch

from ...contract.config import ParallelConfig
from ...system.cache import cache_directory
from .choose import Workload

# Compiling costs 10 to 60 s and saves 10 to 30 ms of a step: it is for people who go on with a model.
STEPS_BEFORE = 60


def compile_wanted(config: ParallelConfig, kind: str, work: Workload, sampled: Counter[str]) -> bool:
    """`auto`: on GPUs, for an architecture with which STEPS_BEFORE steps were sampled since ComfyUI started, or which
    was compiled on this machine before (what was compiled is kept on disk). `sampled`: steps of each architecture since
    ComfyUI started.
    """
    if config.compile == "off":
        return False
    if not work.compiles:
        if config.compile == "on":
            logging.info("xDiT: %s is not compiled: there is no plan that names its blocks", work.architecture)
        return False
    if config.compile == "on":
        return True
    return kind == "cuda" and (sampled[work.architecture] >= STEPS_BEFORE or _mark(work.architecture).exists())


def count_sampled(sampled: Counter[str], work: Workload, kind: str, steps: int, compiled: bool) -> None:
    """Remember what `auto` goes by."""
    sampled[work.architecture] += steps
    if not compiled or kind != "cuda":
        return
    try:
        _mark(work.architecture).parent.mkdir(parents=True, exist_ok=True)
        _mark(work.architecture).touch()
    except OSError as error:
        logging.debug("xDiT: not remembered as compiled: %s", error)


def _mark(architecture: str):
    device = torch.cuda.get_device_name()
    return cache_directory() / "compiled" / re.sub(r"[^\w.+-]+", "_", f"{architecture} {torch.__version__} {device}")
