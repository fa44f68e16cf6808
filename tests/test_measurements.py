"""What is remembered of this machine in files: by several processes at once, and whatever these files hold."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from xdit_comfyui.parallel_backend.host.base.devices import DeviceSet
from xdit_comfyui.parallel_backend.host.strategy import link_speed as links_module
from xdit_comfyui.parallel_backend.host.strategy.link_speed import Link, Links, keep_links, links_file, measured_links
from xdit_comfyui.parallel_backend.rank.attention.fastest_kernel import Fastest
from xdit_comfyui.parallel_backend.system import cache

DEVICES = DeviceSet("cpu", (0, 1))
WRITERS, SHAPES = 6, 15


def test_ranks_that_measure_at_once_keep_what_each_of_them_measured(tmp_path):
    file = tmp_path / "attention.json"

    def measure(rank):
        fastest = Fastest(file, "a GPU", lambda call: 1.0)
        for shape in range(SHAPES):
            fastest.measure(f"rank {rank} shape {shape}", ["a", "b"], lambda kernel: None)

    with ThreadPoolExecutor(WRITERS) as ranks:
        list(ranks.map(measure, range(WRITERS)))
    known = Fastest(file, "a GPU", lambda call: 1.0)
    assert all(known.known(f"rank {rank} shape {shape}") == "a" for rank in range(WRITERS) for shape in range(SHAPES))


def test_a_file_that_another_process_does_not_let_go_of_costs_only_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BUSY_SECONDS", 0.1)
    file = tmp_path / "attention.json"
    with cache._alone(file):
        fastest = Fastest(file, "a GPU", lambda call: 1.0)
        assert fastest.measure("a shape", ["a"], lambda kernel: None) == "a"
    assert not file.exists() and fastest.known("a shape") == "a"


PAIR, TOGETHER = [0, 1, 2e10, 1e-5], [2e10, 1e-5]


@pytest.mark.parametrize(
    "wrong",
    [
        {"pairs": None},
        {"pairs": 7},
        {"pairs": [[0, 1]]},
        {"pairs": [[0, 1, "fast", 1e-5]]},
        {"pairs": [[0, 5, 2e10, 1e-5]]},
        {"pairs": [[1, 0, 2e10, 1e-5]]},
        {"pairs": [["0", "1", 2e10, 1e-5]]},
        {"together": None},
        {"together": []},
        {"together": [None, 1e-5]},
        {"together": [-1.0, 1e-5]},
        {"together": [float("nan"), 1e-5]},
        {"together": ["2e10", 1e-5]},
        {"devices": "cpu"},
        {"devices": None},
        {"devices": [0, 1]},
    ],
    ids=str,
)
@pytest.mark.parametrize("devices", [DEVICES, DeviceSet("cpu", (0, 1, 2))], ids=str)
def test_links_that_are_none_are_as_good_as_not_measured(tmp_path, monkeypatch, caplog, wrong, devices):
    monkeypatch.setenv("XDIT_CACHE", str(tmp_path))
    keep_links(DEVICES, Links({(0, 1): Link(2e10, 1e-5)}, Link(2e10, 1e-5)))
    content = json.loads(links_file().read_text())
    content["measurements"][0].update(wrong)
    links_file().write_text(json.dumps(content))
    assert measured_links(devices) is None
    links = Links({(0, 1): Link(3e10, 1e-5)}, Link(3e10, 1e-5))
    keep_links(DEVICES, links)
    assert measured_links(DEVICES) == links


def test_links_of_which_one_is_missing_say_nothing_of_fewer_devices(tmp_path, monkeypatch):
    monkeypatch.setenv("XDIT_CACHE", str(tmp_path))
    monkeypatch.setattr(links_module, "_gpu_identity", lambda index: f"GPU {index}")
    keep_links(DeviceSet("cuda", (0, 1, 2)), Links({(0, 1): Link(2e10, 1e-5)}, Link(2e10, 1e-5)))
    assert measured_links(DeviceSet("cuda", (0, 2))) is None
    assert measured_links(DeviceSet("cuda", (0, 1))).bandwidth == 2e10
