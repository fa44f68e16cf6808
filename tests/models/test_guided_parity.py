"""Every planned model under CFG and batch parallelism gives what one device gives for the same guided call."""

import pytest
from support.model_matrix import TOLERANCE, guided

from models.cases import CASES

RUNS = [(case.name, *degrees) for case in CASES.values() for degrees in guided(case)]


@pytest.mark.parametrize(("name", "cfg", "batch", "ulysses"), RUNS)
def test_divided_equals_whole(rank_sets, name, cfg, batch, ulysses):
    assert max(rank_sets[cfg * batch * ulysses].run(("guided", name, cfg, batch, ulysses))) <= TOLERANCE
