"""GPUs that are not here: AMD's, cards for a display, cards too old for this torch."""

import logging
from types import SimpleNamespace

import comfy.model_management
import pytest
import torch
from xdit_comfyui.parallel_backend.doctor import machine
from xdit_comfyui.parallel_backend.doctor.report import Report
from xdit_comfyui.parallel_backend.host.base import devices as devices_module
from xdit_comfyui.parallel_backend.host.base.devices import DeviceSet, has_kernels, resolve

GIB = 2**30
CUDA = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "compute_120"]


def card(name="a card", memory=24.0, capability=(8, 9), **others):
    major, minor = capability
    return SimpleNamespace(
        name=name, total_memory=int(memory * GIB), major=major, minor=minor, uuid=f"uuid of {name}", **others
    )


@pytest.fixture
def cards(monkeypatch):
    """A machine with these cards: cards(card(…), …, built=[…], hip="6.4")."""

    def put(*found, built=CUDA, hip=None):
        monkeypatch.setattr(comfy.model_management, "cpu_mode", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found[index])
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
        monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda one, other: True)
        monkeypatch.setattr(torch.version, "hip", hip)
        devices_module._say_once.cache_clear()

    return put


def test_auto_leaves_a_card_for_the_display_out_and_says_how_to_name_it(cards, caplog):
    cards(card("RTX 4090", 23.6), card("GT 1030", 2.0, (6, 1)), card("RTX 4090", 23.6), built=[])
    with caplog.at_level(logging.INFO):
        assert resolve("auto") == resolve("") == DeviceSet("cuda", (0, 2))
    (line,) = caplog.messages
    assert "auto leaves GPU 1 (GT 1030) out: it has 2.0 GiB, the largest 23.6 GiB" in line
    assert "name all devices in Parallel Config: 0,1,2" in line
    assert resolve("0,1,2") == DeviceSet("cuda", (0, 1, 2)) and resolve("1") == DeviceSet("cuda", (1,))


def test_auto_leaves_a_card_without_kernels_out(cards, caplog):
    cards(card("RTX 3090"), card("Tesla P40", 24.0, (6, 1)))
    with caplog.at_level(logging.INFO):
        assert resolve("auto") == DeviceSet("cuda", (0,))
    assert "auto leaves GPU 1 (Tesla P40) out: this torch has no kernels for 6.1" in caplog.text


@pytest.mark.parametrize("memory", [[24, 24], [24, 8], [80, 24], [2, 2], [2], [12, 8, 6]], ids=str)
def test_auto_takes_every_card_that_can_do_its_share(cards, caplog, memory):
    cards(*(card(f"card {index}", gib) for index, gib in enumerate(memory)))
    assert resolve("auto").indices == tuple(range(len(memory)))
    assert not caplog.messages


def test_where_no_card_has_kernels_auto_leaves_it_to_the_ranks_to_say_so(cards):
    cards(card("P40", 24.0, (6, 1)), card("P40", 24.0, (6, 1)))
    assert resolve("auto").indices == (0, 1)


@pytest.mark.parametrize(
    ("architecture", "built", "has"),
    [
        ("8.9", CUDA, True),
        ("7.0", CUDA, False),
        ("9.0", ["sm_90a"], True),
        ("12.1", CUDA, True),
        ("10.3", ["sm_100f"], True),
        ("12.0", ["sm_90"], False),
        ("gfx942", ["gfx90a", "gfx942"], True),
        ("gfx1030", ["gfx90a", "gfx942"], False),
        ("gfx1100", ["gfx11-generic"], True),
        ("8.6", [], True),
    ],
)
def test_kernels_of_an_architecture(monkeypatch, architecture, built, has):
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    assert has_kernels(architecture) is has


def test_the_doctor_examines_gpus_of_amd(cards, monkeypatch, tmp_path):
    mi300 = {"capability": (9, 4), "gcnArchName": "gfx942:sramecc+:xnack-"}
    radeon = {"capability": (10, 3), "gcnArchName": "gfx1030"}
    cards(card("MI300X", 192, **mi300), card("RX 6900", 16, **radeon), built=["gfx90a", "gfx942"], hip="6.4")
    monkeypatch.setenv("PATH", str(tmp_path))
    report = Report("two")
    machine.examine_machine(report, DeviceSet("cuda", (0, 1)))
    assert [gpu.capability for gpu in report.gpus] == ["gfx942", "gfx1030"]
    (kernels,) = (problem for problem in report.problems if "is built for" in problem.what)
    assert "GPU 1 (RX 6900)" in kernels.what and "gfx90a, gfx942" in kernels.what
