"""Exchanges by writing into the others' memory equal collectives; on CPU ranks, shared files stand for that memory."""

import itertools

import pytest
from support.rank_set import RankSets

SPLITS = {
    2: [((3, 3), (2, 2)), ((4, 3), (1, 2))],
    3: [((2, 2, 2), (2, 1, 1)), ((5, 0, 1), (1, 1, 1))],
}  # tokens, heads of each rank


@pytest.fixture(scope="module")
def rank_sets():
    sets = RankSets("sharding.symmetric_side:SymmetricSide")
    yield sets
    sets.stop()


@pytest.mark.parametrize(
    ("tokens", "heads", "batch"),
    [(*split, batch) for splits, batch in itertools.product(SPLITS.values(), (1, 2)) for split in splits],
)
def test_written_equals_sent(rank_sets, tokens, heads, batch):
    assert rank_sets[len(tokens)].run(("compare", tokens, heads, batch)) == [True] * len(tokens)


def test_buffers_in_turn_are_never_written_while_they_are_read(rank_sets):
    """Ranks that are late on purpose: many exchanges in a row, each checked after the slowest read."""
    assert rank_sets[3].run(("many", 30)) == [True] * 3


def test_exchanges_are_counted(rank_sets):
    """There, and back."""
    assert rank_sets[2].run(("counted",)) == [[2], [2]]
