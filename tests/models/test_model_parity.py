"""Every planned model, sharded over real processes, gives what it gives on one device."""

import os

import pytest
from models.cases import CASES
from support.model_side import TREE
from support.rank_set import RankSet

TOLERANCE = 1e-5
VISIBLE = 1e-3
FACTORINGS = [(2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (1, 3)]
FULL = os.environ.get("XDIT_FULL_MATRIX") == "1"


def pairwise():
    """Each case once in each of its modes, the factorings taken in turn; everything under XDIT_FULL_MATRIX=1."""
    turn = 0
    for name, case in CASES.items():
        for mode in case.modes:
            for factoring in FACTORINGS if FULL else (FACTORINGS[turn % len(FACTORINGS)],):
                yield name, *factoring, mode
            turn += 1


@pytest.fixture(scope="session")
def rank_sets(host):
    sets = {size: RankSet(size, "support.model_side:ModelSide", {TREE: str(host.tree)}) for size in (2, 3, 4)}
    yield sets
    for ranks in sets.values():
        ranks.stop()


@pytest.mark.parametrize(("name", "ulysses", "ring", "mode"), pairwise())
def test_sharded_equals_whole(rank_sets, name, ulysses, ring, mode):
    errors = rank_sets[ulysses * ring].run(("parity", name, ulysses, ring, mode))
    assert max(errors) <= TOLERANCE, errors


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith(": plain")])
def test_leaving_the_exchange_out_is_noticed(rank_sets, name):
    errors = rank_sets[2].run(("parity", name, 2, 1, CASES[name].modes[0], False))
    assert max(errors) > VISIBLE
