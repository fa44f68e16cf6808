"""Starting and ending a ComfyUI: it writes into its own base directory only and leaves nothing running."""

import os
import signal
import subprocess
import sys
import time

import pytest
from comfy_host.instance import MARK, ComfyInstance, InstanceError, make_base_directory
from support.pack import PACK_ROOT
from support.prompts import Graph


def test_the_comfyui_tree_is_not_written_to(host, comfy, client, models):
    graph = Graph()
    config = graph.parallel_config("cpu:2")
    model = graph.add("XDiTLoader", unet_name=models.flux(), weight_dtype="default", parallel_config=config)
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    graph.save(graph.sample("XDiTSampler", model, graph.flux_conditioning(1), latent))
    client.run(graph.prompt)
    began = (comfy.base / "custom_nodes").stat().st_mtime_ns
    written = [path for path in host.tree.rglob("*") if path.stat().st_mtime_ns >= began]
    assert not written
    assert (comfy.base / "user" / "comfyui.db").is_file()


def test_the_test_nodes_are_there(client):
    assert {"RandomConditioning", "RandomLatent"} <= set(client.object_info())


def test_it_listens_on_loopback_only(comfy):
    inodes = {
        os.readlink(f"/proc/{pid}/fd/{fd}")[8:-1]
        for pid in comfy.processes()
        for fd in os.listdir(f"/proc/{pid}/fd")
        if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    }
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")):
        for line in open(f"/proc/net/{table}").readlines()[1:]:
            local, state, inode = (line.split()[column] for column in (1, 3, 9))
            if state == "0A" and inode in inodes:
                assert local.split(":")[0] == loopback, line


def test_stop_ends_every_process_also_in_sessions_of_their_own(host, tmp_path):
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "__init__.py").write_text(
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "NODE_CLASS_MAPPINGS = {}\n"
    )
    base = make_base_directory(tmp_path / "base", {"leaves-a-process": pack})
    instance = ComfyInstance(host, base, ["--cpu"])
    instance.start()
    assert len(instance.processes()) >= 2
    left = instance.stop(grace=3)
    assert len(left) == 1 and "time.sleep(600)" in left[0]
    assert not instance.processes()


def test_a_host_that_cannot_start_says_why(host, tmp_path):
    base = make_base_directory(tmp_path / "base", {})
    instance = ComfyInstance(host, base, ["--no-such-flag"])
    with pytest.raises(InstanceError, match=r"(?s)ended with code 2.*--no-such-flag"):
        instance.start()
    assert not instance.processes()


def test_it_ends_when_the_process_that_started_it_is_killed(host, tmp_path):
    script = (
        f"import sys; sys.path[:0] = {[str(PACK_ROOT / 'scripts')]!r}\n"
        "from pathlib import Path\n"
        "from comfy_host import Host\n"
        "from comfy_host.instance import ComfyInstance, make_base_directory\n"
        f"base = make_base_directory(Path({str(tmp_path / 'base')!r}), {{}})\n"
        f"instance = ComfyInstance(Host(Path({str(host.tree)!r}), Path(sys.executable)), base, ['--cpu'])\n"
        "instance.start()\n"
        "print(instance.pid, instance._mark, flush=True)\n"
        "sys.stdin.read()\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid, mark = starter.stdout.readline().split()
    assert f"{MARK}={mark}".encode() in open(f"/proc/{pid}/environ", "rb").read()
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{pid}")
