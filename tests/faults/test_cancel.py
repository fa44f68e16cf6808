"""Cancel gives ComfyUI back at once, also while ranks start, load or are inside a long step."""

import time

from support.waiting import wait_until

CONTROL_WITHIN_S = 1.0
SLACK_S = 2.0  # for a busy machine


def seconds_to_cancel(faults, prompt_id):
    began = time.monotonic()
    faults.client.interrupt(prompt_id)
    result = faults.client.wait(prompt_id, timeout=60)
    assert result.interrupted, result.error
    return time.monotonic() - began


def sampler_runs(faults, prompt, sampler):
    prompt_id = faults.client.queue(prompt)
    faults.client.wait_for(prompt_id, lambda event: event.type == "executing" and event.data["node"] == sampler, 30)
    return prompt_id


def test_while_the_group_starts(faults):
    faults.kill_ranks()
    prompt, sampler, _ = faults.graph(seed=51)
    prompt_id = sampler_runs(faults, prompt, sampler)
    time.sleep(0.7)  # in the wait for the ranks, which need seconds to import torch
    started = faults.pids()
    assert seconds_to_cancel(faults, prompt_id) < CONTROL_WITHIN_S + SLACK_S
    start = faults.log_size
    faults.assert_right(seed=52)
    assert "waiting for 2 CPU rank(s) to start" in faults.log_since(start)
    assert started and started <= faults.pids()


def test_while_a_model_loads_and_inside_a_long_step(faults):
    expected = faults.latent(stock=True, seed=54)
    faults.latent()
    pids = faults.pids()
    for place in ("while loading", "inside the model call"):
        prompt, sampler, _ = faults.graph(seed=53, fault={"kind": "slow", "place": place, "rank": 1, "times": 1})
        prompt_id = sampler_runs(faults, prompt, sampler)
        wait_until(lambda: (faults.counter / "rank1").exists())
        assert seconds_to_cancel(faults, prompt_id) < CONTROL_WITHIN_S + SLACK_S
        start = faults.log_size
        faults.assert_right(expected, seed=54)
        assert "to finish what a cancelled prompt began" in faults.log_since(start)
        assert faults.pids() == pids
        (faults.counter / "rank1").unlink()
