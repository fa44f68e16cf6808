"""Two real GPUs: a rank is killed or stopped while they exchange, or runs out of GPU memory.

`pytest -m gpu tests/faults/test_gpus.py` takes some minutes (half of them each with `-k NCCL` and `-k symmetric`).
"""

import os
import signal
import time

import pytest
from support.comfy_client import ComfyClient
from support.faults import ERROR_WITHIN_S, FaultGraph
from support.gpus import DEVICES, NEEDED, TOLERANCE, gpu_instance
from support.tiny_models import ModelShelf
from support.waiting import wait_until

pytestmark = [*NEEDED, pytest.mark.timeout(300)]
SILENCE = 10  # seconds
RESTART_S = 60  # a new group, and the prompt again in it
LONG = {"steps": 10000, "size": 1024}  # half a minute at least
LARGE = 4096  # pixels: tens of thousands of tokens, hundreds of MiB in each block
EXCHANGES = {"NCCL": "0", "symmetric memory": "1"}


@pytest.fixture(scope="module", params=EXCHANGES)
def gpu_comfy(request, host, tmp_path_factory):
    """A ComfyUI for each way in which Ulysses and rings exchange."""
    environment = {
        "XDIT_HEARTBEAT_TIMEOUT": str(SILENCE),
        "XDIT_SYMMETRIC_MEMORY": EXCHANGES[request.param],
    }
    with gpu_instance(host, tmp_path_factory.mktemp("gpu-comfyui"), environment) as instance:
        yield instance


@pytest.fixture
def faults(gpu_comfy, tmp_path):
    with ComfyClient(gpu_comfy.url, gpu_comfy.base / "output") as client:
        shelf = ModelShelf(gpu_comfy.base / "models")
        yield FaultGraph(gpu_comfy, client, shelf, tmp_path, DEVICES, TOLERANCE)


@pytest.fixture(params=["ulysses", "ring"])
def degrees(request):
    return {request.param: 2, "compile": "off"}


def struck_while_sampling(faults, degrees, number, within):
    """The error of a long prompt whose second rank gets a signal in the middle; it has to come in time."""
    faults.latent(**degrees)
    victim = max(faults.pids())
    prompt_id = faults.client.queue(faults.graph(seed=81, **LONG, **degrees)[0])
    faults.client.wait_for_step(prompt_id, 5)
    os.kill(victim, number)
    began = time.monotonic()
    result = faults.client.wait(prompt_id, timeout=120)
    assert result.error is not None, "it ended before the rank was struck"
    assert time.monotonic() - began <= within, result.error.message
    assert victim not in faults.pids()
    assert "on GPU 0,1" in faults.log_since(0)
    return result.error


def test_the_exchange_is_right(faults, degrees):
    faults.assert_right(seed=80, **degrees)


def test_it_is_right_compiled_and_captured_too(faults, degrees):
    """In a ring keys and values travel beside the MLP, into memory that a CUDA graph reads again and again."""
    faults.assert_right(seed=79, steps=12, size=512, **{**degrees, "compile": "on"})


def test_killed_while_gpus_exchange(faults, degrees):
    error = struck_while_sampling(faults, degrees, signal.SIGKILL, ERROR_WITHIN_S)
    assert "rank 1 (cuda:1) was ended by SIGKILL" in error.message and "while sampling" in error.message
    faults.assert_right(seed=82, **degrees)


def test_killed_inside_a_model_call(faults, degrees):
    """The other rank waits on its GPU for what will never come."""
    faults.latent(**degrees)
    error = faults.error(fault={"kind": "killed", "place": "inside the model call"}, **degrees)
    assert "rank 1 (cuda:1) was ended by SIGKILL" in error.message
    faults.assert_right(seed=83, **degrees)


def test_stopped_while_gpus_exchange(faults, degrees):
    error = struck_while_sampling(faults, degrees, signal.SIGSTOP, SILENCE + ERROR_WITHIN_S)
    assert f"rank 1 (cuda:1) has given no sign of life for {SILENCE} s: its process is stopped" in error.message
    assert "rank 0 (cuda:0)" in error.message and "rank 1 (cuda:1) does not answer" in error.message
    faults.assert_right(seed=84, **degrees)


@pytest.mark.parametrize("compiled", ["off", "on"])
def test_killed_while_a_pipeline_hands_over(faults, compiled):
    """The other stage's streams wait for a flag in host memory, compiled within a CUDA graph."""
    error = struck_while_sampling(faults, {"pipefusion": 2, "compile": compiled}, signal.SIGKILL, ERROR_WITHIN_S)
    assert "rank 1 (cuda:1) was ended by SIGKILL" in error.message and "while sampling" in error.message
    faults.assert_right(seed=85, ulysses=2, compile="off")


def test_stopped_while_a_pipeline_hands_over(faults):
    degrees = {"pipefusion": 2, "compile": "off"}
    error = struck_while_sampling(faults, degrees, signal.SIGSTOP, SILENCE + ERROR_WITHIN_S)
    assert f"rank 1 (cuda:1) has given no sign of life for {SILENCE} s: its process is stopped" in error.message
    faults.assert_right(seed=86, ulysses=2, compile="off")


def test_one_rank_runs_out_of_memory(faults):
    """The next try is in a new group, where it has its memory again."""
    options = {"ulysses": 2, "compile": "off"}
    faults.latent(**options)
    pids, start = faults.pids(), faults.log_size
    began = time.monotonic()
    fault = {"kind": "little GPU memory", "place": "before the model call"}
    faults.assert_right(seed=85, size=LARGE, fault=fault, **options)
    assert time.monotonic() - began <= RESTART_S + ERROR_WITHIN_S
    log = faults.log_since(start)
    assert "out of memory on rank 1 (cuda:1) while sampling: asked for" in log
    assert "trying once more in a new process group" in log
    assert not faults.pids() & pids


def test_all_ranks_run_out_of_memory(faults):
    """Twice, as they keep their limit; the error says what was asked for, and smaller images are right."""
    options = {"ulysses": 2, "compile": "off"}
    faults.latent(**options)
    pids = faults.pids()
    fault = {"kind": "little GPU memory", "place": "before the model call", "rank": -1}
    message = faults.error(within=RESTART_S, seed=86, size=LARGE, fault=fault, **options).message
    assert "out of memory on rank" in message and "asked for" in message and "second try" in message
    assert "rank 0 (cuda:0)" in message and "rank 1 (cuda:1)" in message
    faults.assert_right(seed=87, **options)
    assert faults.pids() == pids
    faults.kill_ranks()  # and with them the limit
    faults.assert_right(seed=88, size=LARGE, **options)


def test_ranks_end_in_order(faults):
    faults.assert_right(seed=89, ulysses=2, compile="off")
    pids = faults.pids()
    began = time.monotonic()
    faults.client.post("/xdit/restart", {})
    wait_until(lambda: not faults.pids() & pids)
    assert time.monotonic() - began <= ERROR_WITHIN_S
    for rank in range(2):
        log = (faults.comfy.base / "user" / "xdit" / f"rank{rank}.log").read_text(errors="replace")
        assert "left the process groups" in log and "destroy_process_group() was not called" not in log
