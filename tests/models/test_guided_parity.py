"""Every planned model under CFG and batch parallelism gives what one device gives for the same guided call."""

import pytest
from models.cases import CASES
from support.model_matrix import TOLERANCE, guided_cases

PLAIN = guided_cases(CASES)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("divided", ["cfg", "batch"])
def test_divided_equals_whole(rank_sets, name, divided):
    cfg, batch = (2, 1) if divided == "cfg" else (1, 2)
    assert max(rank_sets[2].run(("guided", name, cfg, batch, 1))) <= TOLERANCE


@pytest.mark.parametrize(("name", "divided"), [(name, index % 2) for index, name in enumerate(PLAIN)])
def test_divided_and_sharded_equals_whole(rank_sets, name, divided):
    cfg, batch = (2, 1) if divided else (1, 2)
    assert max(rank_sets[4].run(("guided", name, cfg, batch, 2))) <= TOLERANCE
