"""Ranks that run model cases, shared by all tests of models."""

import pytest
from support.model_side import TREE
from support.rank_set import RankSet


@pytest.fixture(scope="package")
def rank_sets(host):
    """Number of ranks → RankSet with a WeightsSide in each."""
    sets = {size: RankSet(size, "support.weights_side:WeightsSide", {TREE: str(host.tree)}) for size in (2, 3, 4)}
    yield sets
    for ranks in sets.values():
        ranks.stop()
