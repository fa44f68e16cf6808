"""A machine that is short of something: two ComfyUIs at once, a full disk, no log folder, hardly any /dev/shm."""

import logging
import os
import shlex
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import folder_paths
import pytest
from comfy_host import Host
from comfy_host.instance import ComfyInstance, make_base_directory
from support.comfy_client import ComfyClient
from support.compare import TOLERANCE
from support.console import watch
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import rank_pids
from support.tiny_models import ModelShelf
from xdit_comfyui.parallel_backend.host.launch.rank_log import RankLog

CAN_MOUNT = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
TEST_NODES = {"xdit-test-nodes": Path(__file__).parent / "support" / "host_nodes"}
FLAGS = ["--cpu", "--force-fp32"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def latent(client, name, parallel=True):
    graph = Graph()
    if parallel:
        config = graph.parallel_config("cpu:2")
        model = graph.add("XDiTLoader", unet_name=name, weight_dtype="default", parallel_config=config)
    else:
        model = graph.add("UNETLoader", unet_name=name, weight_dtype="default")
    empty = graph.add("EmptySD3LatentImage", width=256, height=256, batch_size=1)
    saved = graph.save(graph.sample("KSampler", model, graph.flux_conditioning(1), empty))
    return client.latent(client.run(graph.prompt), saved.id)


def python_with_little_room(python: Path, folder: Path, full: Path) -> Path:
    """A python in mounts of its own: 64 KB of /dev/shm, and no byte left in the folder `full`."""
    wrapper = folder / "python"
    mounts = (
        "mount -t tmpfs -o size=64k tmpfs /dev/shm"
        f" && mount -t tmpfs -o size=16k tmpfs {shlex.quote(str(full))}"
        f" && {{ head -c 64k /dev/zero > {shlex.quote(str(full / 'filler'))} 2>/dev/null; true; }}"
        f' && exec {shlex.quote(str(python))} "$@"'
    )
    wrapper.write_text(f'#!/bin/sh\nexec unshare -m sh -c {shlex.quote(mounts)} sh "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


@pytest.mark.skipif(not CAN_MOUNT, reason="a private mount namespace needs root")
def test_two_comfyuis_one_without_room_the_other_without_a_log_folder(host, tmp_path):
    little, logless = (make_base_directory(tmp_path / name, TEST_NODES) for name in ("little", "logless"))
    (little / "user" / "xdit").mkdir()
    (logless / "user" / "xdit").write_text("a file where the folder of logs should be")
    wrapper = python_with_little_room(host.python, tmp_path, little / "user" / "xdit")
    with (
        ComfyInstance(Host(host.tree, wrapper), little, FLAGS, ONE_THREAD) as first,
        ComfyInstance(host, logless, FLAGS, ONE_THREAD) as second,
        ComfyClient(first.url, little / "output") as first_client,
        ComfyClient(second.url, logless / "output") as second_client,
        ThreadPoolExecutor(2) as both,
    ):
        for instance in (first, second):
            watch(instance)
        clients = (first_client, second_client)
        names = [ModelShelf(base / "models").flux(256, 1, 1) for base in (little, logless)]
        found = list(both.map(latent, clients, names))
        expected = latent(second_client, names[1], parallel=False)
        assert all(relative_error(one, expected) <= TOLERANCE for one in found)
        assert len(rank_pids(first)) == len(rank_pids(second)) == 2
        assert not list(Path(f"/proc/{first.pid}/root/dev/shm").iterdir())
    for instance, why in ((first, "No space left on device"), (second, "File exists")):
        lines = [line for line in instance.log.read_text().splitlines() if "no log file for rank" in line]
        assert len(lines) == 2 and all(why in line and "sampling goes on" in line for line in lines), lines


@pytest.fixture
def user_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    return tmp_path / "xdit"


def rank_log(*lines: str) -> RankLog:
    """The log of a rank 0 that printed `lines` and ended."""
    source, sink = os.pipe()
    log = RankLog(source, 0)
    with open(sink, "w") as output:
        output.writelines(f"{line}\n" for line in lines)
    return log


def test_two_comfyuis_with_one_user_directory_write_to_different_logs(user_directory):
    first, second = rank_log("of the first"), rank_log("of the second")
    first.close()
    second.close()
    assert (user_directory / "rank0.log").read_text() == "of the first\n"
    assert (user_directory / "rank0.2.log").read_text() == "of the second\n"
    third = rank_log("of the third")
    third.close()
    assert (user_directory / "rank0.log").read_text() == "of the third\n"
    assert (user_directory / "rank0.previous.log").read_text() == "of the first\n"


def test_the_end_of_a_log_is_known_without_its_file(user_directory, caplog):
    user_directory.parent.joinpath("xdit").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        log = rank_log("one", "two")
        log.close()
    assert log.tail() == "one\ntwo" and str(log) == "its log"
    assert len(caplog.records) == 1 and "no log file for rank 0" in caplog.text


def test_a_limit_that_is_no_number_is_refused_by_name(monkeypatch):
    from xdit_comfyui.parallel_backend.contract.config import ConfigError
    from xdit_comfyui.parallel_backend.host.base.limits import Limits

    for text in ("soon", "-1", "0", "nan"):
        monkeypatch.setenv("XDIT_HEARTBEAT_TIMEOUT", text)
        with pytest.raises(ConfigError, match="XDIT_HEARTBEAT_TIMEOUT is .*number of seconds"):
            Limits.from_environment()


def test_threads_of_a_log_end_with_their_rank(user_directory):
    before = threading.active_count()
    rank_log("a line").close()
    assert threading.active_count() == before
