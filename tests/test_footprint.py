"""What the pack takes of a machine: memory, sockets, time-outs, and what is left when ComfyUI ends."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from support.comfy_client import ComfyClient
from support.prompts import Graph
from support.ranks import anonymous_bytes, is_loopback, listeners, mapped_bytes, rank_pids, resident_bytes
from support.tiny_models import ModelShelf

GONE_WITHIN_S = 5
SPARSE = (2048, 3, 2)  # hidden, double, single: 2.4 GB


def sample(client, name, devices, seed=7, images=1, **options):
    graph = Graph()
    config = graph.parallel_config(devices, **options)
    model = graph.add("XDiTLoader", unet_name=name, weight_dtype="default", parallel_config=config)
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=images)
    saved = graph.save(graph.sample("KSampler", model, graph.flux_conditioning(1), latent, seed=seed, steps=1))
    return client.latent(client.run(graph.prompt), saved.id)


def test_a_large_model_weighs_nothing_in_comfyui_and_once_in_all_ranks(client, comfy, models):
    sample(client, models.flux(), "cpu:4")
    ranks = rank_pids(comfy)
    assert len(ranks) == 4
    host_before = resident_bytes(comfy.pid)
    ranks_before = sum(anonymous_bytes(pid) for pid in ranks)
    name = models.sparse_flux(*SPARSE)
    size = (models.models / "diffusion_models" / name).stat().st_size
    assert size >= 2e9
    assert sample(client, name, "cpu:4").isfinite().all()
    assert rank_pids(comfy) == ranks
    assert resident_bytes(comfy.pid) - host_before < 0.02 * size
    assert sum(anonymous_bytes(pid) for pid in ranks) - ranks_before < 0.1 * size


def test_ranks_listen_on_loopback_only(client, comfy, models):
    sample(client, models.flux(), "cpu:4", seed=8)
    found = [address for pid in rank_pids(comfy) for address, _ in listeners(pid)]
    assert found, "gloo listens on something"
    assert all(is_loopback(address) for address in found), found


@pytest.mark.parametrize(("degree", "single"), [("ulysses", 4), ("batch", 5)])  # another file each
def test_of_divided_weights_a_rank_reads_and_keeps_its_share(client, comfy, models, degree, single):
    sample(client, models.flux(), "cpu:2", seed=9)
    before = {pid: anonymous_bytes(pid) for pid in rank_pids(comfy)}
    hidden, double = 1024, 4
    path = models.models / "diffusion_models" / models.sparse_flux(hidden, double, single)
    size, largest = path.stat().st_size, 4 * 36 * hidden**2  # a double block in fp32
    assert sample(client, path.name, "cpu:2", images=2, **{degree: 2}, weights="shard").isfinite().all()
    assert before.keys() == rank_pids(comfy)
    read = [mapped_bytes(pid, path) for pid in before]
    assert max(read) < 0.75 * size  # no lower bound: where memory is short the kernel takes pages back
    for pid, bytes_before in before.items():
        assert anonymous_bytes(pid) - bytes_before < 0.5 * size + 2 * largest + 0.2 * size


@pytest.fixture
def temporary():
    """A temporary directory of the server's own, so that what it leaves there can be seen."""
    with tempfile.TemporaryDirectory(prefix="footprint-") as directory:
        yield Path(directory)


def left_by_the_pack(temporary):
    """What lies in the temporary directory, torch's own cache of compiled code aside."""
    return [path for path in temporary.iterdir() if not path.name.startswith("torchinductor")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_comfyui_is_ended(start_comfy, temporary, number):
    comfy = start_comfy(
        "--cpu", "--force-fp32", TMPDIR=str(temporary), XDIT_COLLECTIVE_TIMEOUT="5", OMP_NUM_THREADS="1"
    )
    with ComfyClient(comfy.url, comfy.base / "output") as client:
        name = ModelShelf(comfy.base / "models").flux(256, 1, 1)
        sample(client, name, "cpu:2")
        ranks = rank_pids(comfy)
        assert len(ranks) == 2
        if number == signal.SIGTERM:
            time.sleep(15)  # an idle rank waits in no collective, so its time limit does not count
            sample(client, name, "cpu:2", seed=8)
            assert rank_pids(comfy) == ranks
        else:
            os.kill(max(ranks), signal.SIGSTOP)  # a stopped rank sees no end of file
    os.kill(comfy.pid, number)
    assert_all_gone(comfy, temporary)


def assert_all_gone(comfy, temporary):
    deadline = time.monotonic() + GONE_WITHIN_S
    while rank_pids(comfy) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert rank_pids(comfy) == set()
    assert left_by_the_pack(temporary) == []


def test_nothing_is_left_when_comfyui_is_killed_while_ranks_start(start_comfy, temporary):
    comfy = start_comfy("--cpu", "--force-fp32", TMPDIR=str(temporary), OMP_NUM_THREADS="1")
    with ComfyClient(comfy.url, comfy.base / "output") as client:
        name = ModelShelf(comfy.base / "models").flux(256, 1, 1)
        graph = Graph()
        model = graph.add(
            "XDiTLoader", unet_name=name, weight_dtype="default", parallel_config=graph.parallel_config("cpu:2")
        )
        latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
        graph.save(graph.sample("KSampler", model, graph.flux_conditioning(1), latent))
        client.queue(graph.prompt)
        deadline = time.monotonic() + 30
        while len(rank_pids(comfy)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    os.kill(comfy.pid, signal.SIGKILL)
    assert_all_gone(comfy, temporary)
