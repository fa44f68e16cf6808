"""Weights divided over the ranks, and a prompt that ends early while a block is being gathered ahead."""

SHARDED = {"ulysses": 2, "weights": "shard"}


def test_cancelled(faults):
    faults.latent(**SHARDED)
    pids = faults.pids()
    fault = {"kind": "slow", "place": "inside the model call", "rank": 1, "times": 1}
    prompt_id = faults.client.queue(faults.graph(seed=61, fault=fault, **SHARDED)[0])
    faults.wait_until(lambda: (faults.counter / "rank1").exists())
    faults.client.interrupt(prompt_id)
    assert faults.client.wait(prompt_id, timeout=60).interrupted
    faults.assert_right(seed=62, **SHARDED)
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
