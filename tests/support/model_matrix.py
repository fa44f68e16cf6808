"""What is run for each model case, and what a case shows: shared by the tests and by scripts/model_table.py."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import torch

from support.model_case import ModelCase

TOLERANCE = 1e-5  # relative, fp32
FACTORINGS = ((2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (1, 3))  # ulysses, ring
FULL = os.environ.get("XDIT_FULL_MATRIX") == "1"  # every way of dividing and every mode
GUIDED = ((2, 1, 1), (1, 2, 1), (2, 1, 2), (1, 2, 2))  # cfg, batch, ulysses

SEQUENCE, RING, CONTROLNET, REFERENCE, CFG, BATCH = "Ulysses", "ring", "ControlNet", "reference", "CFG", "batch"
COLUMNS = (SEQUENCE, RING, CONTROLNET, REFERENCE, CFG, BATCH)


def guided(case: ModelCase) -> list[tuple[int, int, int]]:
    """cfg, batch, ulysses: how a case is also run divided by conditions and by rows, if it is a plain one."""
    if not case.name.endswith(": plain"):
        return []
    return [degrees for degrees in GUIDED if case.takes_batches or degrees[1] == 1]


def commands(case: ModelCase) -> dict[str, tuple[int, tuple]]:
    """The full matrix of one case: label → number of ranks, command of ModelSide."""
    found = {}
    for ulysses, ring in FACTORINGS:
        for mode in case.modes:
            label = f"ulysses {ulysses} × ring {ring}, {mode}"
            found[label] = (ulysses * ring, ("parity", case.name, ulysses, ring, mode))
    for cfg, batch, ulysses in guided(case):
        label = f"cfg {cfg} × batch {batch} × ulysses {ulysses}"
        found[label] = (cfg * batch * ulysses, ("guided", case.name, cfg, batch, ulysses))
    return found


def shown(case: ModelCase) -> set[str]:
    """The columns of the model table for which this case counts."""
    _, inputs = case.inputs()
    columns = {SEQUENCE, RING} | {CFG if cfg > 1 else BATCH for cfg, _, _ in guided(case)}
    if "ControlNet" in case.name:
        columns.add(CONTROLNET)
    given = {name for name, value in inputs.items() if value is not None}
    given = given.union(*(value for value in inputs.values() if isinstance(value, dict)))
    if any(name.startswith("ref") for name in given):
        columns.add(REFERENCE)
    return columns


def counts_for(label: str) -> str | None:
    """The column for which one run of the matrix counts on its own."""
    if label.startswith("cfg"):
        return BATCH if "batch 2" in label else CFG
    return SEQUENCE if "ring 1" in label else RING


def architecture_of(case: ModelCase) -> str:
    """The class of the case's model, as module.qualname; built without memory."""
    return _architecture(case.build)


@functools.cache
def _architecture(build: Callable[..., torch.nn.Module]) -> str:
    import comfy.ops

    model = build(device="meta", operations=comfy.ops.disable_weight_init, dtype=torch.float32)
    return f"{type(model).__module__}.{type(model).__qualname__}"
