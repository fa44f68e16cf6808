"""What a rank does with a ModelCase: runs it whole and sharded, and says how far the two are apart."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from unittest import mock

import torch

from support.comfy import import_comfy
from support.parity import relative_error

TREE = "XDIT_TEST_COMFYUI"


class ModelSide:
    """Answers ("parity", case name, ulysses, ring, mode, exchange) in each rank."""

    def __init__(self):
        import_comfy(Path(os.environ[TREE]))
        from models.cases import CASES

        self._cases = CASES
        self._groups = {}
        self._whole = {}

    def answer(self, verb: str, name: str, ulysses: int, ring: int, mode: str, exchange: bool = True) -> float:
        """‖sharded - whole‖ / ‖whole‖ of the case's output. Without `exchange` attention stays local (a control)."""
        from xdit_comfyui.parallel_backend.sharding import attention
        from xdit_comfyui.parallel_backend.sharding.engine import Session, ShardedModel
        from xdit_comfyui.parallel_backend.sharding.patches import Mode
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        case = self._cases[name]
        model = case.model()
        whole = self._whole_output(case, model)
        sharded = ShardedModel(model, plan_for(model))
        sharded.session = Session(self._sequence_groups(ulysses, ring), mode=None if mode == "auto" else Mode(mode))
        control = contextlib.nullcontext() if exchange else mock.patch.object(
            attention, "sequence_parallel_attention", lambda q, k, v, *, kernel, mask=None, **_: kernel(q, k, v, None)
        )  # fmt: skip
        with control:
            output = run(model, case)
        assert not sharded.session.notes, sharded.session.notes
        return relative_error(output, whole)

    def _whole_output(self, case, model) -> torch.Tensor:
        if case.name not in self._whole:
            self._whole[case.name] = run(model, case)
        return self._whole[case.name]

    def _sequence_groups(self, ulysses: int, ring: int):
        from xdit_comfyui.parallel_backend.sharding.collectives import new_sequence_groups

        if (ulysses, ring) not in self._groups:
            self._groups[ulysses, ring] = new_sequence_groups([range(ulysses * ring)], ulysses, ring)
        return self._groups[ulysses, ring]


def run(model: torch.nn.Module, case) -> torch.Tensor:
    args, kwargs = case.inputs()
    kwargs.setdefault("transformer_options", {})
    output = model(*args, **kwargs)
    if isinstance(output, tuple | list):
        output = torch.cat([part.flatten() for part in output])
    return output
