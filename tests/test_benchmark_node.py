"""XDiT Benchmark: what it tries, what it remembers, and that auto takes it, in the real server."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import comfy.model_detection
import pytest
import torch
from support.prompts import Graph
from support.tiny_models import flux_shapes
from xdit_comfyui.parallel_backend.contract.config import ConfigError, Degrees, ParallelConfig
from xdit_comfyui.parallel_backend.host.base.devices import DeviceSet
from xdit_comfyui.parallel_backend.host.run.benchmark import BenchmarkSeam, Trial, fastest, strategies
from xdit_comfyui.parallel_backend.host.strategy.choose import Choice, Workload, choose, refusal
from xdit_comfyui.parallel_backend.host.strategy.measured_best import best_file, best_key, keep_best, remembered_best
from xdit_comfyui.parallel_backend.sharding.plans.flux import FLUX

WORK = Workload("Flux", FLUX, 24, 2, (1, 16, 64, 64))
OTHER_WORK = (
    {"conditions": 1},
    {"latent_shape": (2, 16, 64, 64)},
    {"latent_shape": (1, 16, 64, 72)},
    {"together": "PAG"},
)
OTHER_CONFIGS = ({"attention": "flash"}, {"compile": "on"}, {"weights": "shard"})
KEY = {"architecture": "a.Flux", "latent": [1, 16, 64, 64], "devices": ["GPU a", "GPU b"]}


# What is tried


def test_strategies_are_all_factorings_of_all_devices_and_of_fewer():
    assert strategies(1) == [Degrees()]
    single = [{"ulysses": 2}, {"ring": 2}, {"cfg": 2}, {"batch": 2}, {"pipefusion": 2}]
    assert sorted(map(str, strategies(2))) == sorted(map(str, [*(Degrees(**degrees) for degrees in single), Degrees()]))
    four = strategies(4)
    assert {Degrees(ulysses=2, ring=2), Degrees(cfg=2, ulysses=2), Degrees(ulysses=4), Degrees(cfg=2)} <= set(four)
    assert len(four) == len(set(four)) and [degrees.ranks for degrees in four] == sorted(
        (degrees.ranks for degrees in four), reverse=True
    )
    assert Degrees(ulysses=2, ring=2, cfg=2) not in strategies(8)


def test_what_cannot_be_had_has_a_reason():
    config = ParallelConfig()
    assert refusal(Degrees(cfg=2), config, 4, WORK) is None
    assert "batch degree 2" in refusal(Degrees(batch=2), config, 2, WORK)
    assert "needs 4 devices, there are 2" in refusal(Degrees(ulysses=4), config, 2, WORK)
    assert "leaves 2 of 4 devices idle" in refusal(Degrees(cfg=2), ParallelConfig(unsupported="refuse"), 4, WORK)
    unplanned = Workload("UNet", None, None, 2, (1, 4, 64, 64))
    assert "no sharding plan" in refusal(Degrees(ulysses=2), config, 2, unplanned)


def test_the_rule_is_kept_where_nothing_else_is_noticeably_faster():
    rule, other, approximate = Degrees(ulysses=2), Degrees(ring=2), Degrees(pipefusion=2)
    trials = [Trial(rule, 1.0), Trial(other, 0.99), Trial(approximate, 0.1), Trial(Degrees(cfg=2), fault="no")]
    assert fastest(trials, rule).degrees == rule
    assert fastest([trials[0], Trial(other, 0.9), trials[2]], rule).degrees == other
    assert fastest([Trial(rule, fault="no"), Trial(approximate, 0.1)], rule) is None


def test_a_sampler_that_ends_before_its_first_step_is_said_to():
    seam = BenchmarkSeam(None, lambda done, total: None)
    with pytest.raises(ConfigError, match="measured nothing: the sampler ended before its first step"):
        seam.measured  # noqa: B018


# What is remembered


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDIT_CACHE", str(tmp_path / "cache"))
    return best_file()


def test_a_best_counts_for_its_key_only_and_the_newest_counts(cache):
    assert remembered_best(KEY) is None
    keep_best(KEY, Degrees(ring=2), 0.5)
    keep_best({**KEY, "latent": [1, 16, 128, 128]}, Degrees(cfg=2), 0.4)
    keep_best(KEY, Degrees(ulysses=2), 0.0821)
    best = remembered_best(KEY)
    assert best.degrees == Degrees(ulysses=2)
    assert str(best.choice).startswith("ulysses 2 (measured on this machine: 82.1 ms a step on 20")
    for other in ({"latent": [2, 16, 64, 64]}, {"devices": ["GPU a"]}, {"compiled": True}):
        assert remembered_best({**KEY, **other}) is None
    assert len(json.loads(cache.read_text())["measurements"]) == 2


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"format": 1}',
        '{"format": 1, "measurements": [{"key": {}, "best": {"degrees": {"ulysses": 0}, "seconds": 1, "day": ""}}]}',
        '{"format": 1, "measurements": [{"key": {}, "best": null}]}',
    ],
)
def test_a_damaged_file_is_ignored_with_one_warning_and_written_anew(cache, caplog, content):
    cache.parent.mkdir()
    cache.write_text(content)
    assert remembered_best(KEY) is None and remembered_best({}) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "best.json is ignored" in caplog.text
    keep_best(KEY, Degrees(ulysses=2), 0.1)
    assert remembered_best(KEY).degrees == Degrees(ulysses=2)
    assert [path.name for path in cache.parent.iterdir()] == ["best.json"]


def patcher_of(dtype=torch.bfloat16, hidden=256, fast=False) -> SimpleNamespace:
    """A MODEL of a small Flux on meta, as far as a key looks at it."""
    shapes = flux_shapes(hidden, 1, 1)
    weights = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}
    config = comfy.model_detection.model_config_from_unet(weights, "")
    config.set_inference_dtype(dtype, None)
    config.optimizations["fp8"] = fast
    return SimpleNamespace(model=config.get_model(weights, "", device="meta"))


def test_a_key_holds_everything_that_a_measurement_depends_on():
    config, two = ParallelConfig(compile="off"), DeviceSet("cpu", (0, 1))
    key = best_key(patcher_of(), WORK, two, config)
    assert key == json.loads(json.dumps(key)) == best_key(patcher_of(), WORK, two, config)
    others = [
        best_key(patcher_of(torch.float16), WORK, two, config),
        best_key(patcher_of(hidden=512), WORK, two, config),
        best_key(patcher_of(fast=True), WORK, two, config),
        best_key(patcher_of(), WORK, DeviceSet("cpu", (0, 1, 2)), config),
        *(best_key(patcher_of(), replace(WORK, **other), two, config) for other in OTHER_WORK),
        *(best_key(patcher_of(), WORK, two, replace(config, **other)) for other in OTHER_CONFIGS),
    ]
    assert all(other != key for other in others)


def test_auto_takes_a_best_that_can_be_had_and_no_other():
    best = Choice(Degrees(ulysses=2, ring=2), "measured")
    assert choose(ParallelConfig(), 4, WORK, best=best) == best
    assert choose(ParallelConfig(), 2, WORK, best=best).degrees == Degrees(cfg=2)
    fewer = Choice(Degrees(), "measured")
    assert choose(ParallelConfig(), 2, WORK, best=fewer) == fewer
    assert choose(ParallelConfig(unsupported="refuse"), 2, WORK, best=fewer).degrees == Degrees(cfg=2)
    manual = ParallelConfig(strategy="manual", degrees=Degrees(ulysses=2))
    assert choose(manual, 2, WORK, best=best).reason == "as configured"
    one_image = Workload("Flux", FLUX, 24, 1, (1, 16, 64, 64))
    assert choose(ParallelConfig(), 2, one_image, best=Choice(Degrees(cfg=2), "")).degrees == Degrees(ulysses=2)


# In the server


def prompt(models, graph: Graph, width=72, **config):
    """At sizes of its own: what is remembered here must not decide how other tests' images are divided."""
    model = graph.add(
        "XDiTLoader",
        unet_name=models.flux(),
        weight_dtype="default",
        parallel_config=graph.parallel_config("cpu:2", **config),
    )
    latent = graph.add("EmptySD3LatentImage", width=width, height=56, batch_size=1)
    return model, graph.flux_conditioning(1), graph.flux_conditioning(2, 33), latent


def benchmark(models, steps=3, **inputs):
    graph = Graph()
    model, positive, negative, latent = prompt(models, graph, **inputs)
    settings = {"steps": steps, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    node = graph.add(
        "XDiTBenchmark", model=model, positive=positive, negative=negative, latent_image=latent, **settings
    )
    return graph, node


def log_of(comfy, client, graph: Graph) -> str:
    start = comfy.log.stat().st_size
    client.run(graph.prompt)
    with open(comfy.log, errors="replace") as log:
        log.seek(start)
        return log.read()


def sample(models, width=72, **config) -> Graph:
    graph = Graph()
    model, positive, negative, latent = prompt(models, graph, width, **config)
    graph.save(graph.sample("KSampler", model, positive, latent, negative=negative, cfg=3.0, steps=2))
    return graph


def test_what_was_measured_is_what_auto_takes(client, comfy, models):
    graph, node = benchmark(models)
    (report,) = client.run(graph.prompt).outputs[node.id]["text"]
    assert report.startswith("xDiT Benchmark: Flux on 2 CPU rank(s)\nlatent 1 × 16 × 7 × 9, conditions 2")
    rows = dict(re.findall(r"^(\S.*?) {2,}([\d.]+)  ", report, re.MULTILINE))
    assert {"cfg 2", "ulysses 2", "ring 2", "one device"} <= set(rows), report
    assert re.search(r"^batch 2: batch degree 2, but the latent holds 1 image", report, re.MULTILINE), report
    (best,) = re.findall(r"^(\S.*?) {2,}.*the best", report, re.MULTILINE)
    logged = log_of(comfy, client, sample(models))
    assert f"xDiT: {best} (measured on this machine: {rows[best]} ms a step on " in logged, logged
    assert "measured on this machine" not in log_of(comfy, client, sample(models, width=96))
    assert "xDiT: ring 2 (as configured)" in log_of(comfy, client, sample(models, ring=2))


def test_weights_that_are_divided_leave_out_what_cannot_divide_them(client, models):
    graph, node = benchmark(models, weights="shard")
    (report,) = client.run(graph.prompt).outputs[node.id]["text"]
    measured, refused = report.split("Cannot be had:")
    for degrees in ("ulysses 2", "cfg 2"):
        assert re.search(rf"^{degrees} +\d", measured, re.MULTILINE), report
    assert re.search("^one device: weights 'shard': blocks are divided over", refused, re.MULTILINE), report


def test_cancel_ends_all_strategies(client, models):
    graph, node = benchmark(models, steps=100, width=128)
    prompt_id = client.queue(graph.prompt)
    client.wait_for(prompt_id, lambda event: event.type == "progress" and event.data["node"] == node.id)
    client.interrupt()
    assert client.wait(prompt_id).interrupted
