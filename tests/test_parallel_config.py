"""Parallel Config over the real server: what it refuses, and that manual degrees give stock ComfyUI's latent."""

import pytest
from support.comfy_client import PromptFailed, PromptRefused
from support.compare import TOLERANCE, both
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import rank_pids


def sampled(graph, model, sampler="KSampler", cfg=1.0, **inputs):
    latent = graph.add("EmptySD3LatentImage", width=144, height=88, batch_size=1)
    negative = graph.flux_conditioning(2, 33)
    return graph.sample(sampler, model, graph.flux_conditioning(1), latent, negative=negative, cfg=cfg, **inputs)


def refusal(client, models, devices, **options):
    """What the server says of a Parallel Config before anything runs."""
    graph = Graph()
    config = graph.parallel_config(devices, **options)
    model = graph.add("XDiTLoader", unet_name=models.flux(), weight_dtype="default", parallel_config=config)
    graph.save(sampled(graph, model))
    with pytest.raises(PromptRefused) as refused:
        client.validate(graph.prompt)
    return " ".join(refused.value.node_errors[config.id])


@pytest.mark.parametrize(
    ("devices", "options", "said"),
    [
        ("cpu:2", {"ulysses": 3}, ["ulysses 3", "needs 3", "multiply to 2"]),
        ("cpu:4", {"ulysses": 2, "ring": 1}, ["ulysses 2", "multiply to 4"]),
        ("0", {}, ["no GPU 0", "cpu:2"]),
        ("0,0", {}, ["'0,0'", "twice"]),
        ("cuda:0", {}, ["'cuda:0' is not understood", "0,1,2,3"]),
        ("cpu:0", {}, ["possible: 1 to 64"]),
        ("cpu:-1", {}, ["not understood"]),
        ("cpu:2", {"batch": 2, "ulysses": 2}, ["multiply to 2"]),
        ("cpu:2", {"pipefusion": 2, "ring": 2}, ["ring 2 × pipefusion 2", "ulysses inside a stage"]),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(client, models, devices, options, said):
    message = refusal(client, models, devices, **options)
    assert all(part in message for part in said), message


def failure(client, graph):
    with pytest.raises(PromptFailed) as failed:
        client.run(graph.prompt)
    return failed.value.result.error


def test_loader_and_sampler_with_different_devices(client, models):
    graph = Graph()
    one, other = graph.parallel_config("cpu:2"), graph.parallel_config("cpu:1")
    model = graph.add("XDiTLoader", unet_name=models.flux(), weight_dtype="default", parallel_config=one)
    graph.save(sampled(graph, model, "XDiTSampler", parallel_config=other))
    error = failure(client, graph)
    assert "2 CPU rank" in error.message and "1 CPU rank" in error.message


def test_two_loaders_with_different_devices(client, models):
    graph = Graph()
    for seed, devices in ((0, "cpu:2"), (1, "cpu:1")):
        config = graph.parallel_config(devices)
        model = graph.add(
            "XDiTLoader", unet_name=models.flux(seed=seed), weight_dtype="default", parallel_config=config
        )
        graph.save(sampled(graph, model))
    error = failure(client, graph)
    assert "2 CPU rank" in error.message and "1 CPU rank" in error.message


def test_more_ulysses_ranks_than_heads_and_more_cfg_than_conditions(client, models):
    for degrees, said in (({"ulysses": 4}, "ulysses 2 × ring 2"), ({"cfg": 2, "ulysses": 2}, "cfg degree 2")):
        graph = Graph()
        config = graph.parallel_config("cpu:4", **degrees)
        loader = {"unet_name": models.flux(), "weight_dtype": "default", "parallel_config": config}
        graph.save(sampled(graph, graph.add("XDiTLoader", **loader)))
        assert said in failure(client, graph).message


def test_a_sampler_s_config_wins_over_the_loader_s(client, comfy, models):
    graph = Graph()
    one, other = graph.parallel_config("cpu:2", ulysses=2), graph.parallel_config("cpu:2", ring=2)
    model = graph.add("XDiTLoader", unet_name=models.flux(), weight_dtype="default", parallel_config=one)
    start = comfy.log.stat().st_size
    graph.save(sampled(graph, model, "XDiTSampler", parallel_config=other))
    client.run(graph.prompt)
    assert "xDiT: ring 2 (as configured)" in comfy.log_since(start)


def test_an_unplanned_model_is_refused_where_the_config_says_so(client, models):
    graph = Graph()
    config = graph.parallel_config("cpu:2", ulysses=2, unsupported="refuse")
    model = graph.add("XDiTLoader", unet_name=models.sdxl(), weight_dtype="default", parallel_config=config)
    texts = [
        graph.add("RandomConditioning", seed=seed, tokens=77, context_dim=2048, pooled_dim=1280, guidance=-1.0)
        for seed in (1, 2)
    ]
    latent = graph.add("EmptyLatentImage", width=128, height=64, batch_size=1)
    graph.save(graph.sample("KSampler", model, texts[0], latent, negative=texts[1], cfg=5.0, scheduler="normal"))
    message = failure(client, graph).message
    assert "no sharding plan" in message and "UNetModel" in message


@pytest.mark.parametrize(
    ("devices", "options", "cfg"),
    [
        ("cpu:2", {"ring": 2}, 1.0),
        ("cpu:2", {"ulysses": 1, "ring": 2}, 3.0),
        ("cpu:2", {"cfg": 2}, 3.0),
        ("cpu:4", {"ulysses": 2, "ring": 2}, 1.0),
        ("cpu:4", {"ring": 2, "cfg": 2}, 3.0),
        ("cpu:4", {"ring": 4}, 1.0),
    ],
)
def test_manual_degrees(client, comfy, models, devices, options, cfg):
    build = lambda graph, model: sampled(graph, model, cfg=cfg)  # noqa: E731
    stock, found = both(client, models, build, devices=devices, **options)
    assert relative_error(found, stock) <= TOLERANCE
    assert len(rank_pids(comfy)) == int(devices[-1])


def test_a_kernel_that_cannot_be_had_is_named_once_and_the_picture_is_right(client, comfy, models):
    start = comfy.log.stat().st_size
    stock, found = both(client, models, sampled, devices="cpu:2", ring=2, attention="flash3")
    assert relative_error(found, stock) <= TOLERANCE
    said = comfy.log_since(start)
    assert said.count("attention flash3 cannot be had (FlashAttention 3: not for this device)") == 1


@pytest.mark.parametrize("name", ["attention", "unsupported", "compile", "weights", "patches", "warmup_steps"])
def test_what_stands_alone_is_refused_once(client, models, name):
    graph = Graph()
    wrong = -1 if name in ("patches", "warmup_steps") else "nonsense"
    config = graph.parallel_config("cpu:2", **{name: wrong})
    model = graph.add("XDiTLoader", unet_name=models.flux(), weight_dtype="default", parallel_config=config)
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    graph.save(graph.sample("KSampler", model, graph.flux_conditioning(1), latent))
    with pytest.raises(PromptRefused) as refused:
        client.queue(graph.prompt)
    (said,) = refused.value.node_errors[config.id]
    assert name in said and str(wrong) in said
