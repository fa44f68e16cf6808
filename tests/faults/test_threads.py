"""Threads beside the main one: in a rank one that ends takes the rank with it, in ComfyUI the group is replaced."""

import threading

import pytest
from support.waiting import wait_until
from xdit_comfyui.parallel_backend.transport.outbox import Outbox

from .conftest import SILENCE, STALL

SLACK = 15  # seconds, as for every other fault


def test_a_rank_that_cannot_say_how_it_is_ends_and_is_replaced(faults):
    """As when its GPU fell off the bus while it was idle: its heartbeats went on, and every later prompt hung."""
    faults.latent()
    pids = faults.pids()
    faults.latent(seed=101, fault={"kind": "cannot answer", "place": "before the model call"})
    wait_until(lambda: len(faults.pids() & pids) < 2)  # it is asked at the end of the prompt
    faults.assert_right(seed=102)
    assert not faults.pids() & pids


def test_a_rank_that_never_says_how_it_is_is_replaced_by_the_next_prompt(faults):
    faults.latent()
    pids, start = faults.pids(), faults.log_size
    faults.latent(seed=103, fault={"kind": "never answers", "place": "before the model call"})
    faults.assert_right(seed=104)
    assert f"rank 1 (cpu) has not answered for {SILENCE} s while idle" in faults.log_since(start)
    assert not faults.pids() & pids


@pytest.mark.parametrize("place", ["while loading", "while reading whole weights"])
def test_a_rank_that_hangs_while_it_loads_is_found(faults, place):
    faults.latent()
    faults.client.post("/xdit/unload", {})
    fault = {"kind": "hangs", "place": place, "call": 20}
    message = faults.error(within=STALL + SLACK, seed=105, fault=fault).message
    assert f"rank 1 (cpu) has made no progress for {STALL} s while loading" in message
    assert "rank 1 (cpu) is at:" in message and "time.sleep(LONG)" in message
    faults.assert_right(seed=106)


def test_a_rank_that_sends_what_cannot_be_read_is_named(faults, console):
    faults.latent()
    console.announce("the thread xdit-receive-1 ended")
    fault = {"kind": "babbles", "place": "before the model call"}
    message = faults.error(within=SLACK, seed=107, fault=fault).message
    assert "rank 1: the thread xdit-receive-1 ended: UnpicklingError" in message
    faults.assert_right(seed=108)


def test_an_outbox_that_cannot_send_says_so():
    class Broken:
        def send(self, payload, descriptors):
            raise ValueError("65 descriptors in one frame")

    said, done = [], threading.Event()

    def failed(error):
        said.append(str(error))
        done.set()

    Outbox(Broken(), "0", failed).send(b"frame")
    assert done.wait(10) and said == ["65 descriptors in one frame"]
