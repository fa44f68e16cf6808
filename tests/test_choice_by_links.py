"""What `auto` makes of measured links."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import ksampler
from support.tiny_models import flux_config
from xdit_comfyui.parallel_backend.contract.config import Degrees, ParallelConfig
from xdit_comfyui.parallel_backend.host.base.devices import DeviceSet
from xdit_comfyui.parallel_backend.host.describe.changes import Changes
from xdit_comfyui.parallel_backend.host.run.workload import workload
from xdit_comfyui.parallel_backend.host.strategy.choose import Workload, choose
from xdit_comfyui.parallel_backend.host.strategy.link_speed import Link, Links
from xdit_comfyui.parallel_backend.sharding.foreign.kernel_choice import OVERRIDE
from xdit_comfyui.parallel_backend.sharding.plans.flux import FLUX
from xdit_comfyui.parallel_backend.sharding.plans.wan import WAN

SLOW, FAST = (Links({(0, 1): Link(speed, 5e-5)}, None) for speed in (23e9, 260e9))
IMAGE, LARGE, VIDEO = (1, 16, 128, 128), (1, 16, 256, 256), (1, 16, 21, 60, 104)


def flux(conditions=1, shape=IMAGE, steps=20):
    return Workload("Flux", FLUX, 24, conditions, shape, steps=steps, blocks=57)


@pytest.mark.parametrize(
    ("work", "ranks", "links", "degrees"),
    [
        (flux(), 2, None, Degrees(ulysses=2)),
        (flux(), 2, FAST, Degrees(ulysses=2)),
        (replace(flux(), ring_of_two=True), 2, FAST, Degrees(ring=2)),
        (replace(flux(), ring_of_two=True), 4, FAST, Degrees(ulysses=4)),
        (replace(flux(conditions=2), ring_of_two=True), 4, FAST, Degrees(cfg=2, ring=2)),
        (flux(), 2, SLOW, Degrees()),
        (flux(shape=LARGE), 2, SLOW, Degrees(ulysses=2)),
        (Workload("WanModel", WAN, 40, 1, VIDEO), 2, SLOW, Degrees(ulysses=2)),
        (flux(conditions=2), 2, SLOW, Degrees(cfg=2)),
        (flux(conditions=2), 4, SLOW, Degrees(cfg=2)),
        (flux(conditions=2), 4, FAST, Degrees(cfg=2, ulysses=2)),
        (flux(shape=(3, 16, 128, 128)), 4, SLOW, Degrees(batch=2)),
        (flux(shape=(4, 16, 128, 128)), 4, SLOW, Degrees(batch=4)),
    ],
)
def test_auto(work, ranks, links, degrees):
    choice = choose(ParallelConfig(), ranks, work, links)
    assert choice.degrees == degrees
    images = degrees.ranks == degrees.cfg * degrees.batch == ranks
    assert ("23 GB/s" in choice.reason) == (links is SLOW and not images)


def test_auto_names_pipefusion_for_slow_links_and_leaves_it_to_the_person():
    def said(work, ranks=2, links=SLOW):
        return "approximate: strategy manual" in choose(ParallelConfig(), ranks, work, links).reason

    assert said(flux()) and said(flux(shape=LARGE))
    reason = choose(ParallelConfig(), 4, flux(conditions=2), SLOW).reason
    assert reason.endswith("strategy manual, cfg 2 × pipefusion 2")
    assert not said(flux(), links=FAST) and not said(flux(steps=4)) and not said(flux(conditions=2))
    assert not said(replace(flux(), blocks=0)) and not said(replace(flux(), undivided_blocks="blocks are replaced"))


def test_who_refuses_idle_devices_gets_none_and_manual_is_obeyed():
    assert choose(ParallelConfig(unsupported="refuse"), 2, flux(), SLOW).degrees == Degrees(ulysses=2)
    config = ParallelConfig(strategy="manual", degrees=Degrees(ulysses=2))
    assert choose(config, 2, flux(), SLOW).degrees == Degrees(ulysses=2)


class Devices(DeviceSet):
    share_memory = True


@pytest.fixture(scope="module")
def guider():
    from comfy.ldm.flux.model import Flux
    from comfy.ops import disable_weight_init

    model = Flux(**flux_config(128, 1, 1, True), device="meta", operations=disable_weight_init)
    holder = torch.nn.Module()
    holder.diffusion_model = model
    patcher = ModelPatcher(holder, torch.device("cpu"), torch.device("cpu"))
    return SimpleNamespace(model_patcher=patcher, model_options={}, conds={"positive": [], "negative": []}, cfg=1.0)


@pytest.mark.parametrize(
    ("options", "kernel", "ring"),
    [({}, "attention_pytorch", True), ({OVERRIDE: print}, "attention_pytorch", False), ({}, "attention_sage", False)],
)
def test_a_ring_of_two_has_kernels_of_its_own(guider, monkeypatch, options, kernel, ring):
    """So it is taken only where nobody brings another one, and only by GPUs that write into each other's memory."""
    from comfy.ldm.modules import attention

    monkeypatch.setattr(attention, "optimized_attention", getattr(attention, kernel))
    monkeypatch.setattr(guider, "model_options", {"transformer_options": options})
    arguments = {"noise": torch.empty(IMAGE, device="meta"), "sigmas": torch.zeros(5), "sampler": ksampler("euler")}
    for devices, reach in ((Devices("cuda", (0, 1)), True), (DeviceSet("cpu", (0, 1)), False)):
        assert workload(guider, arguments, devices, Changes.none()).ring_of_two == (ring and reach)
