"""A rank is killed: the prompt ends with the cause, the next one works."""

import os
import signal

import pytest
from support.waiting import wait_until


@pytest.mark.parametrize(
    ("devices", "place", "phase"),
    [
        ("cpu:2", "before the model call", "sampling"),
        ("cpu:2", "while loading", "loading"),
        ("cpu:3", "inside the model call", "sampling"),
    ],
)
def test_killed_while_a_prompt_runs(faults, devices, place, phase):
    faults.latent(devices=devices)
    error = faults.error(devices=devices, fault={"kind": "killed", "place": place})
    assert "rank 1 (cpu) was ended by SIGKILL" in error.message and phase in error.message
    assert error.type.endswith("GroupError")
    faults.assert_right(devices=devices, seed=8)


def test_killed_while_idle(faults):
    faults.latent()
    victim = min(faults.pids())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: faults.state() == "lost")
    faults.assert_right(seed=9)
    assert len(faults.pids()) == 2 and victim not in faults.pids()


def test_killed_during_cancel(faults):
    """ComfyUI has its queue back; the dead group is found and replaced."""
    faults.latent()
    slow = {"kind": "slow", "place": "inside the model call", "rank": -1}
    prompt, _, _ = faults.graph(steps=50, fault=slow)
    prompt_id = faults.client.queue(prompt)
    faults.client.wait_for_step(prompt_id, 1)
    faults.client.interrupt(prompt_id)
    os.kill(max(faults.pids()), signal.SIGKILL)
    result = faults.client.wait(prompt_id, timeout=15)
    assert result.interrupted or "was ended by SIGKILL" in result.error.message
    faults.assert_right(seed=10)
