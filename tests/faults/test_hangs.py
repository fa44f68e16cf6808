"""Ranks that are stopped or go on no more: found within the limit, and the error says where each rank stands."""

import os
import signal

from support.waiting import wait_until

from .conftest import SILENCE, STALL

SLACK = 15  # seconds, as for every other fault


def test_stopped_while_sampling(faults):
    faults.latent()
    fault = {"kind": "stopped", "place": "before the model call"}
    message = faults.error(within=SILENCE + SLACK, fault=fault).message
    assert f"rank 1 (cpu) has given no sign of life for {SILENCE} s: its process is stopped" in message
    assert "rank 0 (cpu) is at:" in message
    assert "rank 1 (cpu) does not answer" in message
    faults.assert_right(seed=21)


def test_stopped_while_idle(faults):
    faults.latent()
    before = faults.pids()
    os.kill(max(before), signal.SIGSTOP)
    wait_until(lambda: not faults.pids() & before, SILENCE + SLACK)
    faults.assert_right(seed=22)


def test_stopped_while_it_starts(faults):
    before = faults.kill_ranks()
    prompt, _, saved = faults.graph(seed=23)
    start = faults.log_size
    prompt_id = faults.client.queue(prompt)
    wait_until(lambda: faults.pids() - before)
    os.kill(max(faults.pids() - before), signal.SIGSTOP)
    result = faults.client.wait(prompt_id, timeout=90)
    assert result.error is None and result.outputs[saved]
    assert "failed, next try in 1 s: rank" in faults.log_since(start)


def test_a_rank_that_hangs_is_found_and_where_each_stands_is_shown(faults):
    faults.latent()
    fault = {"kind": "hangs", "place": "inside the model call"}
    message = faults.error(within=STALL + SLACK, fault=fault).message
    assert f"rank 1 (cpu) has made no progress for {STALL} s while sampling" in message
    assert "rank 1 (cpu) is at:" in message and "time.sleep(LONG)" in message
    assert "rank 0 (cpu) waits for another rank at:" in message
    faults.assert_right(seed=24)
