"""Groups that do not start: tried again, at last without the device that fails, else with an error that says why."""

import os
import signal
import threading

from support.waiting import wait_until


def test_a_rank_killed_while_it_starts_is_started_again(faults):
    faults.latent()
    start = faults.log_size
    before = faults.kill_ranks()

    def kill_first_new():
        wait_until(lambda: faults.pids() - before, 60)
        os.kill(max(faults.pids() - before), signal.SIGKILL)

    killer = threading.Thread(target=kill_first_new)
    killer.start()
    faults.assert_right(seed=11)
    killer.join()
    log = faults.log_since(start)
    assert "starting 2 CPU rank(s) failed, next try in 1 s: rank" in log
    assert "was ended by SIGKILL" in log


def test_a_start_that_keeps_failing_is_an_error_with_its_cause(faults):
    faults.kill_ranks()
    faults.break_devices(1)
    message = faults.error(within=60, devices="cpu:2", ulysses=2).message
    assert (
        "2 CPU rank(s) cannot be started, tried 4 time(s). First cause: rank 1 (cpu) ended with exit code 3" in message
    )
    assert "this device is broken" in message
    faults.break_devices()
    faults.assert_right(devices="cpu:2", ulysses=2, seed=12)


def test_a_start_without_a_package_is_not_tried_again(faults):
    faults.kill_ranks()
    faults.break_devices(0, 1, says="ModuleNotFoundError: No module named 'xfuser'")
    message = faults.error(devices="cpu:2").message
    assert "tried 1 time(s)" in message and "No module named 'xfuser'" in message


def test_a_device_that_keeps_failing_is_left_out(faults):
    faults.break_devices(1)
    start = faults.log_size
    faults.assert_right(devices="cpu:3", seed=13)
    assert "CPU rank 1 is left out: 3 CPU rank(s) cannot be started" in faults.log_since(start)
    assert len(faults.pids()) == 2
    pids = faults.pids()
    faults.assert_right(devices="cpu:3", seed=14)
    assert faults.pids() == pids
    faults.kill_ranks()
    faults.assert_right(devices="cpu:3", seed=15)  # still left out: no try with the broken one
    assert faults.log_since(start).count("next try") == 3
    message = faults.error(within=60, devices="cpu:3", ring=3).message  # these degrees need all three
    assert "3 CPU rank(s) cannot be started" in message
