"""The model's forward raises in a rank, or in all: the error is the first cause, and the group lives if it can."""

import pytest


def test_one_rank_raises(faults):
    faults.latent()
    error = faults.error(fault={"kind": "raises", "place": "inside the model call"})
    assert "sampling failed on rank 1 (cpu) while the other ranks went on" in error.message
    assert "RuntimeError: the block of this rank fell over" in error.message and "in fail" in error.message
    faults.assert_right(seed=31)


@pytest.mark.parametrize("place", ["before the model call", "inside the model call"])
def test_all_ranks_raise(faults, place):
    faults.latent()
    pids = faults.pids()
    error = faults.error(fault={"kind": "raises", "place": place, "rank": -1})
    assert "sampling failed on rank" in error.message and "went on" not in error.message
    assert "RuntimeError: the block of this rank fell over" in error.message and "in fail" in error.message
    faults.assert_right(seed=32)
    assert faults.pids() == pids


def test_a_rank_that_cannot_read_the_request_leaves_the_group_alive(faults):
    faults.latent()
    pids = faults.pids()
    start = faults.log_size
    faults.latent(seed=33, fault={"kind": "raises", "place": "while loading"})
    assert "the request cannot be rebuilt in rank 1 (cpu): RuntimeError" in faults.log_since(start)
    assert faults.pids() == pids
