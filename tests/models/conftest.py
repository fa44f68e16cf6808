"""Ranks that run model cases, forked from one process for all tests of models."""

import pytest
from support.model_side import TREE
from support.rank_set import RankSets


@pytest.fixture(scope="package")
def all_rank_sets(host):
    # A rank takes some 1 GiB after a while, and other tests run beside these.
    sets = RankSets("support.weights_side:WeightsSide", {TREE: str(host.tree)}, most=5)
    yield sets
    sets.stop()


@pytest.fixture(scope="module")
def rank_sets(all_rank_sets):
    """With a WeightsSide in each rank. The ranks end with a file's tests, and give back the memory that these took."""
    yield all_rank_sets
    all_rank_sets.end_ranks()
