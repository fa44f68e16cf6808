"""A request larger than a pipe holds, and a rank that does not read it: nobody waits for the pipe."""

import os
import signal
import time

from support.waiting import wait_until

from .conftest import SILENCE

LARGE = {"kind": "slow", "place": "before the model call", "rank": -1, "call": 10000, "ballast": 2**24}
CONTROL_WITHIN_S = 1.0
SLACK_S = 2.0  # for a busy machine


def sent_to_a_stopped_rank(faults, seed):
    """The id of a prompt whose request is on its way to two ranks, the second one stopped; and the ranks."""
    faults.latent()
    pids, start = faults.pids(), faults.log_size
    prompt_id = faults.client.queue(faults.graph(seed=seed, fault=LARGE)[0])
    wait_until(lambda: "on 2 CPU rank(s)" in faults.log_since(start))  # it is being pickled, for a second
    os.kill(max(pids), signal.SIGSTOP)
    time.sleep(1.5)
    return prompt_id, pids


def assert_cancelled_at_once(faults, prompt_id):
    began = time.monotonic()
    faults.client.interrupt(prompt_id)
    result = faults.client.wait(prompt_id, timeout=60)
    assert result.interrupted, result.error
    assert time.monotonic() - began < CONTROL_WITHIN_S + SLACK_S


def test_cancel_while_a_request_is_sent(faults):
    prompt_id, pids = sent_to_a_stopped_rank(faults, seed=61)
    assert_cancelled_at_once(faults, prompt_id)
    os.kill(max(pids), signal.SIGCONT)
    faults.assert_right(seed=62, fault=LARGE)
    assert faults.pids() == pids


def test_cancel_while_tensors_are_gathered_for_a_request(faults):
    faults.latent()
    pids, start = faults.pids(), faults.log_size
    fault = {**LARGE, "ballast": 0, "tensors": 50}
    prompt_id = faults.client.queue(faults.graph(seed=69, fault=fault)[0])
    wait_until(lambda: "on 2 CPU rank(s)" in faults.log_since(start))
    assert_cancelled_at_once(faults, prompt_id)
    faults.assert_right(seed=70, fault={**fault, "tensors": 2})
    assert faults.pids() == pids


def test_a_rank_killed_while_a_request_is_sent(faults):
    prompt_id, pids = sent_to_a_stopped_rank(faults, seed=63)
    os.kill(max(pids), signal.SIGKILL)
    result = faults.client.wait(prompt_id, timeout=SILENCE)
    assert "rank 1 (cpu) was ended by SIGKILL" in result.error.message
    faults.assert_right(seed=64)


def test_a_silent_rank_is_named_while_the_sidebar_asks_it(faults):
    prompt_id, _ = sent_to_a_stopped_rank(faults, seed=65)
    ranks = faults.client.get("/xdit/status")["ranks"]
    assert ranks[1]["models"] is None  # rank 0 may be late on a busy machine; that it answers, the error shows
    result = faults.client.wait(prompt_id, timeout=SILENCE + 15)
    assert f"rank 1 (cpu) has given no sign of life for {SILENCE} s: its process is stopped" in result.error.message
    assert "rank 0 (cpu) is at:" in result.error.message
    faults.assert_right(seed=66)


def test_cancel_while_a_stopped_rank_is_asked_how_it_is(faults):
    faults.latent()
    pids = faults.pids()
    os.kill(max(pids), signal.SIGSTOP)
    prompt, sampler, _ = faults.graph(seed=67)
    prompt_id = faults.client.queue(prompt)
    faults.client.wait_for(prompt_id, lambda event: event.type == "executing" and event.data["node"] == sampler, 30)
    assert_cancelled_at_once(faults, prompt_id)
    os.kill(max(pids), signal.SIGCONT)
    faults.assert_right(seed=68)
