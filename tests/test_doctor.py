"""The doctor: as a command with real rank processes, as a node in the real server, and what it makes of nvidia-smi."""

import json
import os
import re
import subprocess
import sys
import time

import psutil
import pytest
from comfy_host import PACK_ROOT
from support.comfy_client import PromptRefused
from support.prompts import Graph
from support.ranks import BOOTSTRAP
from xdit_comfyui.parallel_backend.contract.doctor_messages import Exchanged, KernelTrial, Probed
from xdit_comfyui.parallel_backend.doctor.advice import advice
from xdit_comfyui.parallel_backend.doctor.report import Pair, Report
from xdit_comfyui.parallel_backend.doctor.text import as_text
from xdit_comfyui.parallel_backend.doctor.trials import enter_kernels, enter_links
from xdit_comfyui.parallel_backend.host.base import nvidia_smi
from xdit_comfyui.parallel_backend.host.base.devices import DeviceSet
from xdit_comfyui.parallel_backend.host.strategy.link_speed import Link, Links, keep_links, measured_links

BY_PATH = [sys.executable, str(PACK_ROOT / "parallel_backend" / "doctor")]
BY_MODULE = [sys.executable, "-m", "parallel_backend.doctor"]

GPU_LIST = """\
0, GPU-aaaa, NVIDIA GeForce RTX 4090, 580.95.05, 24564, 512, 24052
1, GPU-bbbb, NVIDIA GeForce RTX 4090, 580.95.05, 24564, 1024, 23540
2, GPU-cccc, NVIDIA GeForce RTX 4090, 580.95.05, 24564, [N/A], [N/A]
"""
TOPOLOGY = """\
\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV4\tSYS\tPHB\t0-15\t0\t\tN/A
GPU1\tNV4\t X \tPHB\tSYS\t0-15\t0\t\tN/A
GPU2\tSYS\tPHB\t X \tSYS\t16-31\t1\t\tN/A
NIC0\tPHB\tSYS\tSYS\t X \t\t\t\t

Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes
"""


@pytest.fixture
def tools(tmp_path):
    """A folder that is all of PATH: a machine without nvidia-smi, until a test puts one there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def environment(host, tools, tmp_path):
    return {
        **os.environ,
        "COMFYUI_PATH": str(host.tree),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PATH": str(tools),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDIT_CACHE": str(tmp_path / "cache"),
    }


def put_nvidia_smi(tools, body):
    script = tools / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)


def put_working_nvidia_smi(tools):
    (tools / "gpus").write_text(GPU_LIST)
    (tools / "topology").write_text(TOPOLOGY)
    cat = "while IFS= read -r line; do printf '%s\\n' \"$line\"; done"
    put_nvidia_smi(tools, f'if [ "$1" = topo ]; then {cat} <{tools}/topology; else {cat} <{tools}/gpus; fi')


def doctor(environment, *arguments, command=BY_PATH):
    return subprocess.run(
        [*command, *arguments], cwd=PACK_ROOT, env=environment, capture_output=True, text=True, timeout=150
    )


# The command


def test_without_a_gpu_it_says_so_and_runs_nothing(environment):
    done = doctor(environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("xDiT doctor (no GPU): no problem found")
    assert "there is no GPU; CPU ranks (devices cpu:2) work" in done.stdout
    assert "none that torch can use" in done.stdout and "Links" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_json_of_two_cpu_ranks_and_the_links_kept_for_auto(environment, monkeypatch):
    done = doctor(environment, "--devices", "cpu:2", "--json", command=BY_MODULE)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert set(report) == {"format", *Report.__dataclass_fields__}
    assert report["format"] == 1 and report["measured"] and report["problems"] == []
    (pair,) = report["pairs"]
    assert pair["devices"] == [0, 1] and pair["bandwidth"] > 1e6 and 0 < pair["latency"] < 1
    assert report["all_to_all"]["bandwidth"] == pair["bandwidth"]
    works = {kernel["name"]: kernel["works"] for kernel in report["kernels"]}
    assert works["math"] is True and works["cudnn"] is False and len(works) == 8
    versions = {row["name"]: row for row in report["versions"]}
    assert {"python", "ComfyUI", "torch", "CUDA of torch", "xfuser", "yunchang", "comfy-kitchen"} <= set(versions)
    assert all(row["fits"] is not False for row in report["versions"])
    monkeypatch.setenv("XDIT_CACHE", environment["XDIT_CACHE"])
    kept = measured_links(DeviceSet("cpu", (0, 1)))
    assert kept.pairs == {(0, 1): Link(pair["bandwidth"], pair["latency"])} and not kept.fast
    assert measured_links(DeviceSet("cpu", (0, 1, 2))) is None


def test_devices_that_do_not_exist_are_an_error_of_usage(environment):
    done = doctor(environment, "--devices", "0,5")
    assert done.returncode == 2 and done.stdout == ""
    assert "no GPU 0, 5" in done.stderr


def test_without_comfyui_it_says_what_to_do(environment):
    done = doctor({**environment, "COMFYUI_PATH": ""})
    assert done.returncode == 2 and "set COMFYUI_PATH" in done.stderr


def test_a_killed_rank_is_reported_and_nothing_is_left(environment, tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [*BY_PATH, "--devices", "cpu:2"]
    running = subprocess.Popen(
        command, env={**environment, "TMPDIR": str(temporary)}, stdout=subprocess.PIPE, text=True
    )
    try:
        ranks = []
        deadline = time.monotonic() + 60
        while len(ranks) < 2 and time.monotonic() < deadline:
            children = psutil.Process(running.pid).children()
            ranks = [child for child in children if BOOTSTRAP in " ".join(child.cmdline())]
            time.sleep(0.05)
        ranks[1].kill()
        output, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 1
    assert output.startswith("xDiT doctor (2 CPU rank(s)): 1 problem(s)")
    assert "the ranks failed. rank 1 (cpu) was ended by SIGKILL" in " ".join(output.split())
    assert "Links (not measured)" in output
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)
    assert list(temporary.glob("xdit-doctor-*")) == []


def test_versions_that_do_not_fit_and_an_nvidia_smi_that_fails(environment, tools, tmp_path):
    info = tmp_path / "old" / "xfuser-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: xfuser\nVersion: 0.1\nRequires-Dist: yunchang<0.1\n")
    put_nvidia_smi(tools, "echo 'NVIDIA-SMI has failed because it could not reach the NVIDIA driver.'; exit 9")
    done = doctor({**environment, "PYTHONPATH": str(info.parent)})
    assert done.returncode == 1
    lines = " ".join(done.stdout.split())
    assert lines.startswith("xDiT doctor (no GPU): 3 problem(s)")
    assert "xfuser 0.1 is installed; this pack needs >=0.7" in lines and "-m pip install -r" in lines
    assert "xfuser needs <0.1" in lines
    assert lines.count("DOES NOT FIT") == 2
    assert "ended with code 9: NVIDIA-SMI has failed" in lines and "reinstall the NVIDIA driver" in lines


def test_gpus_that_torch_does_not_see(environment, tools):
    put_working_nvidia_smi(tools)
    done = doctor(environment)
    assert done.returncode == 1
    assert "nvidia-smi lists 3 GPU(s), torch sees 0: CUDA_VISIBLE_DEVICES is ''" in done.stdout
    assert "driver 580.95.05" in done.stdout


# nvidia-smi


def test_what_nvidia_smi_says(tools, monkeypatch):
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(nvidia_smi.NvidiaSmiError, match="not on PATH"):
        nvidia_smi.gpus()
    put_working_nvidia_smi(tools)
    rows = nvidia_smi.gpus()
    assert [row.uuid for row in rows] == ["GPU-aaaa", "GPU-bbbb", "GPU-cccc"]
    assert rows[1].memory_used == 1024 << 20 and rows[2].memory_free is None
    assert nvidia_smi.topology() == {(0, 1): "NV4", (0, 2): "SYS", (1, 2): "PHB"}
    put_nvidia_smi(tools, "echo No devices were found")
    with pytest.raises(nvidia_smi.NvidiaSmiError, match="No devices were found"):
        nvidia_smi.gpus()


# Links and advice


def test_links_of_some_of_the_measured_devices(tmp_path, monkeypatch):
    monkeypatch.setenv("XDIT_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "xdit_comfyui.parallel_backend.host.strategy.link_speed._gpu_identity", lambda index: f"GPU {index}"
    )
    devices = DeviceSet("cuda", (0, 1, 3))
    assert measured_links(devices) is None
    pairs = {(0, 1): Link(9e9, 1e-5), (0, 3): Link(2e11, 2e-5), (1, 3): Link(8e9, 3e-5)}
    keep_links(devices, Links(pairs, Link(7e9, 4e-5)))
    assert measured_links(DeviceSet("cuda", (3, 0, 1))) == Links(pairs, Link(7e9, 4e-5))
    assert measured_links(DeviceSet("cuda", (3, 0))) == Links({(0, 3): pairs[0, 3]}, pairs[0, 3])
    assert measured_links(DeviceSet("cuda", (0, 2))) is None
    assert measured_links(DeviceSet("cuda", (0,))) is None
    keep_links(devices, Links(pairs, Link(6e9, 4e-5)))
    assert measured_links(devices).bandwidth == 6e9
    with monkeypatch.context() as changed:
        changed.setenv("NCCL_P2P_DISABLE", "1")
        assert measured_links(devices) is None
    for damaged in ("{", "[]", '{"format": 1}', '{"format": 1, "measurements": [{"machine": {}}]}'):
        (tmp_path / "links.json").write_text(damaged)
        assert measured_links(devices) is None
    keep_links(devices, Links(pairs, Link(5e9, 4e-5)))
    assert measured_links(devices).bandwidth == 5e9


def test_what_several_ranks_measured_is_put_together():
    def answer(rank, bandwidth, latency, fault, intact=True):
        exchanged = Exchanged((0, 1), bandwidth, latency, intact)
        return Probed(1, rank, (exchanged,), (KernelTrial("cudnn", fault), KernelTrial("math", None)))

    report = Report("GPU 2,5", pairs=[Pair((2, 5), "PHB", True)])
    answers = [answer(0, 9e9, 1e-5, None), answer(1, 8e9, 3e-5, "not for this device", intact=False)]
    links = enter_links(report, (2, 5), answers)
    enter_kernels(report, answers)
    assert links == Links({(2, 5): Link(8e9, 3e-5)}, Link(8e9, 3e-5))
    assert report.pairs == [Pair((2, 5), "PHB", True, 8e9, 3e-5)]
    assert [(kernel.name, kernel.works, kernel.fault) for kernel in report.kernels] == [
        ("cudnn", False, "rank 1: not for this device"),
        ("math", True, None),
    ]
    (problem,) = report.problems
    assert problem.what.startswith("what devices 2 send to device 5 arrives changed")


def advised(devices, links=None, kind=None):
    report = Report("", pairs=[Pair((0, 1), kind)] if kind else [])
    return {one.strategy: one for one in advice(devices, report, links)}


TWO_GPUS = DeviceSet("cuda", (0, 1))


def test_advice_for_fast_and_for_slow_links():
    fast = advised(TWO_GPUS, Links({}, Link(150e9, 1e-5)))
    assert fast["ulysses"].verdict == "first" and "150 GB/s" in fast["ulysses"].why
    slow = advised(TWO_GPUS, Links({}, Link(23e9, 1e-5)))
    assert list(slow)[0] == "cfg" and slow["cfg"].verdict == "first"
    assert slow["ulysses"].verdict == "large only" and "2048²" in slow["ulysses"].why
    assert slow["pipefusion"].verdict == "good" and fast["pipefusion"].verdict == "no"


def test_advice_without_a_measurement_goes_by_the_kind_of_the_link():
    assert advised(TWO_GPUS, kind="NV4")["ulysses"].verdict == "first"
    unmeasured = advised(TWO_GPUS, kind="PHB")["ulysses"]
    assert unmeasured.verdict == "large only" and "not measured; connected by PHB" in unmeasured.why


def test_advice_for_one_gpu_and_for_none():
    assert "nothing to divide" in advised(DeviceSet("cuda", (0,)))["one device"].why
    assert "there is no GPU" in advised(None)["none"].why


def test_text_shows_the_links_of_gpus_in_words():
    pairs = [Pair((0, 1), "NV18", True, 2.5e11, 2.1e-5), Pair((0, 2), "SYS", False, 1.2e10, 4e-5), Pair((1, 2))]
    text = as_text(Report("GPU 0,1,2", pairs=pairs))
    assert "0 – 1  NVLink (NV18)" in text and "250.0 GB/s  21 µs" in text
    assert "PCIe from one CPU socket to the other (SYS)  no peer access" in text


# The node


def test_the_node_shows_the_report_and_gives_it_on(client):
    graph = Graph()
    node = graph.add("XDiTDoctor", devices="cpu:2", measure=True, format="text")
    shown = graph.add("PreviewAny", source=node)
    result = client.run(graph.prompt)
    (text,) = result.outputs[node.id]["text"]
    assert text.startswith("xDiT doctor (2 CPU rank(s)): ")
    assert "Links (measured in" in text and "GB/s" in text and re.search("math +works", text)
    assert result.outputs[shown.id]["text"] == [text]
    again = client.run(graph.prompt)
    assert node.id not in again.cached


def test_the_node_without_measuring_as_json(client):
    graph = Graph()
    node = graph.add("XDiTDoctor", devices="auto", measure=False, format="json")
    report = json.loads(client.run(graph.prompt).outputs[node.id]["text"][0])
    assert report["devices"] == "no GPU" and report["measured"] is False


def test_the_node_refuses_devices_that_do_not_exist(client):
    graph = Graph()
    node = graph.add("XDiTDoctor", devices="3", measure=False, format="text")
    with pytest.raises(PromptRefused) as refused:
        client.run(graph.prompt)
    assert "ComfyUI sees no GPU" in refused.value.node_errors[node.id][0]
