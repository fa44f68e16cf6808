"""Every planned model under CFG and batch parallelism gives what one device gives for the same guided call.

Each model by conditions and by rows, in turn alone and together with Ulysses. All four:

    XDIT_FULL_MATRIX=1 python3 scripts/test.py tests/models/test_guided_parity.py
"""

import pytest
from support.model_matrix import FULL, TOLERANCE, guided

from models.cases import CASES

PLAIN = [case for case in CASES.values() if guided(case)]


def chosen(turn: int, degrees: tuple[int, int, int]) -> bool:
    cfg, _, ulysses = degrees
    return FULL or (cfg > 1) == ((turn + ulysses) % 2 == 1)


RUNS = [(case.name, *degrees) for turn, case in enumerate(PLAIN) for degrees in guided(case) if chosen(turn, degrees)]


@pytest.mark.parametrize(("name", "cfg", "batch", "ulysses"), RUNS)
def test_divided_equals_whole(rank_sets, name, cfg, batch, ulysses):
    assert max(rank_sets[cfg * batch * ulysses].run(("guided", name, cfg, batch, ulysses))) <= TOLERANCE
