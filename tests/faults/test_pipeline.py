"""A stage of PipeFusion fails while patches flow: others wait for hidden states, in host memory, that never come."""

import pytest

from .conftest import SILENCE, STALL

SLACK = 15  # seconds, as for every other fault
PIPELINE = {"pipefusion": 2, "patches": 2, "size": 128}
CALL = 3  # the first is exact


@pytest.mark.parametrize(
    ("kind", "within", "said"),
    [
        ("killed", SLACK, "rank 0 (cpu) was ended by SIGKILL|while sampling"),
        ("stopped", SILENCE + SLACK, f"rank 0 (cpu) has given no sign of life for {SILENCE} s: its process is stopped"),
        ("hangs", STALL + SLACK, "rank 0 (cpu) has made no progress for|rank 1 (cpu) waits for another rank at:"),
        ("raises", SLACK, "sampling failed on rank 0 (cpu) while the other ranks went on"),
    ],
)
def test_a_stage_fails_while_patches_flow(faults, kind, within, said):
    faults.latent(**PIPELINE)
    start = faults.log_size
    fault = {"kind": kind, "place": "inside the model call", "rank": 0, "call": CALL}
    message = faults.error(within=within, fault=fault, steps=6, **PIPELINE).message
    assert [part for part in said.split("|") if part not in message] == []
    assert "computes every step exactly" not in faults.log_since(start)
    faults.assert_right(seed=40)


def test_all_stages_raise(faults):
    """The group lives, and the next call in patches finds no hidden states of this one."""
    faults.latent(**PIPELINE)
    pids = faults.pids()
    right = faults.latent(seed=41, steps=6, **PIPELINE)
    fault = {"kind": "raises", "place": "before the model call", "rank": -1, "call": CALL}
    faults.error(fault=fault, steps=6, **PIPELINE)
    assert (faults.latent(seed=41, steps=6, **PIPELINE) == right).all()
    assert faults.pids() == pids
