"""Every planned model, sharded over real processes, gives what it gives on one device."""

import pytest
from support.model_matrix import FACTORINGS, FULL, TOLERANCE

from models.cases import CASES

VISIBLE = 1e-3


def pairwise():
    """Each case once in each of its modes, the factorings taken in turn; everything under XDIT_FULL_MATRIX=1."""
    turn = 0
    for name, case in CASES.items():
        for mode in case.modes:
            for factoring in FACTORINGS if FULL else (FACTORINGS[turn % len(FACTORINGS)],):
                yield name, *factoring, mode
            turn += 1


@pytest.mark.parametrize(("name", "ulysses", "ring", "mode"), pairwise())
def test_sharded_equals_whole(rank_sets, name, ulysses, ring, mode):
    errors = rank_sets[ulysses * ring].run(("parity", name, ulysses, ring, mode))
    assert max(errors) <= TOLERANCE, errors


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith(": plain")])
def test_leaving_the_exchange_out_is_noticed(rank_sets, name):
    errors = rank_sets[2].run(("parity", name, 2, 1, CASES[name].modes[0], False))
    assert max(errors) > VISIBLE
