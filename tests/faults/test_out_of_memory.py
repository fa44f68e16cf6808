"""A device runs out of memory: one more try, in place where the ranks are in step, else in a new group."""

from pathlib import Path

import pytest

OUT_OF_MEMORY = {"kind": "out of memory", "place": "before the model call"}


@pytest.mark.parametrize("place", ["before the model call", "while loading"])
def test_all_ranks_run_out_and_try_again_in_place(faults, place):
    faults.latent()
    pids, start = faults.pids(), faults.log_size
    faults.assert_right(seed=41, fault={**OUT_OF_MEMORY, "place": place, "rank": -1})
    log = faults.log_since(start)
    assert log.count("out of memory on rank") == 1
    assert "asked for 2.50 GiB" in log and "trying once more after freeing the ranks' memory" in log
    assert faults.pids() == pids


def test_one_rank_runs_out_and_a_new_group_tries_again(faults):
    faults.latent()
    pids, start = faults.pids(), faults.log_size
    faults.assert_right(seed=42, fault=OUT_OF_MEMORY)
    log = faults.log_since(start)
    assert "out of memory on rank 1 (cpu) while sampling" in log and "trying once more in a new process group" in log
    assert not faults.pids() & pids


def test_a_rank_that_runs_out_while_it_reads_its_cut_of_the_weights(faults):
    faults.latent()
    pids, start = faults.pids(), faults.log_size
    fault = {**OUT_OF_MEMORY, "place": "while reading weights", "call": 20}
    faults.assert_right(seed=44, fault=fault, ulysses=2, weights="shard")
    log = faults.log_since(start)
    assert "out of memory on rank 1 (cpu) while loading" in log
    assert "trying once more after freeing the ranks' memory" in log
    assert faults.pids() == pids


def test_a_second_failure_says_what_there_is_and_what_helps(faults):
    faults.latent()
    message = faults.error(within=60, fault={**OUT_OF_MEMORY, "rank": -1, "times": 2}).message
    assert "asked for 2.50 GiB" in message and "second try" in message
    assert "rank 0 (cpu)" in message and "rank 1 (cpu)" in message and "GiB" in message
    assert "fp8_e4m3fn" in message and "smaller image" in message
    faults.assert_right(seed=43)


def test_the_machine_s_memory_runs_out(faults):
    """As torch says it on a CPU; ranks are what the kernel ends first when nobody says it in time."""
    faults.latent()
    pids, start = faults.pids(), faults.log_size
    fault = {"kind": "out of the machine's memory", "place": "before the model call", "rank": -1}
    faults.assert_right(seed=44, fault=fault)
    assert "trying once more after freeing the ranks' memory" in faults.log_since(start)
    assert faults.pids() == pids
    scores = {pid: int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (*pids, faults.comfy.pid)}
    assert all(scores[pid] == min(scores[faults.comfy.pid] + 500, 1000) for pid in pids)
