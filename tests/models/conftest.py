"""Ranks that run model cases, shared by all tests of models."""

import pytest
from support.model_side import TREE
from support.rank_set import RankSets


@pytest.fixture(scope="package")
def rank_sets(host):
    """With a WeightsSide in each rank."""
    sets = RankSets("support.weights_side:WeightsSide", {TREE: str(host.tree)})
    yield sets
    sets.stop()
