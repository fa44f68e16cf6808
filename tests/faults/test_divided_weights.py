"""Weights divided over the ranks, and a prompt that ends early while a block is being gathered ahead."""

import pytest
from support.waiting import wait_until

SHARDED = {"ulysses": 2, "weights": "shard"}
BY_IMAGES = {"batch": 2, "images": 2, "weights": "shard"}


@pytest.mark.parametrize("sharded", [SHARDED, BY_IMAGES], ids=["ulysses", "batch"])
def test_cancelled(faults, sharded):
    faults.latent(**sharded)
    pids = faults.pids()
    fault = {"kind": "slow", "place": "inside the model call", "rank": 1, "times": 1}
    prompt_id = faults.client.queue(faults.graph(seed=61, fault=fault, **sharded)[0])
    wait_until(lambda: (faults.counter / "rank1").exists())
    faults.client.interrupt(prompt_id)
    assert faults.client.wait(prompt_id, timeout=60).interrupted
    faults.assert_right(seed=62, **sharded)
    assert faults.pids() == pids


def test_all_ranks_fail_in_step(faults):
    faults.latent(**SHARDED)
    pids = faults.pids()
    fault = {"kind": "raises", "place": "inside the model call", "rank": -1}
    assert "the block of this rank fell over" in faults.error(seed=63, fault=fault, **SHARDED).message
    faults.assert_right(seed=64, **SHARDED)
    assert faults.pids() == pids


def test_one_rank_fails(faults):
    faults.latent(**SHARDED)
    pids = faults.pids()
    fault = {"kind": "raises", "place": "inside the model call", "rank": 1}
    message = faults.error(within=30, seed=65, fault=fault, **SHARDED).message
    assert "the block of this rank fell over" in message and "replaced on the next prompt" in message
    faults.assert_right(seed=66, **SHARDED)
    assert not faults.pids() & pids


def test_one_rank_of_several_that_agree_on_each_block_fails(faults):
    """The others hear of it where they would gather their next block."""
    faults.latent(**BY_IMAGES)
    pids = faults.pids()
    fault = {"kind": "raises", "place": "inside the model call", "rank": 1}
    message = faults.error(within=30, seed=67, fault=fault, **BY_IMAGES).message
    assert "the block of this rank fell over" in message and "replaced on the next prompt" not in message
    faults.assert_right(seed=68, **BY_IMAGES)
    assert faults.pids() == pids


def test_one_rank_of_several_that_agree_on_each_block_is_killed(faults):
    faults.latent(**BY_IMAGES)
    pids = faults.pids()
    fault = {"kind": "killed", "place": "inside the model call", "rank": 1}
    assert "rank 1" in faults.error(within=30, seed=69, fault=fault, **BY_IMAGES).message
    faults.assert_right(seed=70, **BY_IMAGES)
    assert not faults.pids() & pids
