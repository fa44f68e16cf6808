"""Ranks that are asked to end: in order, or without waiting for what never ends."""

import pytest
from support.waiting import wait_until

ENDED_WITHIN_S = 10  # ranks wait 3 s for their process groups, the host 5 s for a rank


def log_of(faults, rank):
    return (faults.comfy.base / "user" / "xdit" / f"rank{rank}.log").read_text(errors="replace")


@pytest.mark.parametrize("fault", [None, {"kind": "never leaves", "place": "before the model call"}])
def test_ranks_leave_their_process_groups(faults, fault):
    faults.latent(seed=71, fault=fault)
    pids = faults.pids()
    assert faults.client.post("/xdit/restart", {})["message"].startswith("The ranks were ended.")
    wait_until(lambda: not faults.pids() & pids, ENDED_WITHIN_S)
    assert "left the process groups" in log_of(faults, 0)
    last = "the process groups did not end within 3 s" if fault else "left the process groups"
    assert last in log_of(faults, 1).splitlines()[-1]
    faults.assert_right(seed=72)
