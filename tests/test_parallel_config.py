"""Parallel Config over the real server: what it refuses, and that manual degrees give stock ComfyUI's latent."""

import pytest
from support.comfy_client import PromptFailed, PromptRefused
from support.compare import TOLERANCE, both
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import rank_pids
from support.scheduling import full_run


def sampled(graph, model, sampler="KSampler", cfg=1.0, **inputs):
    latent = graph.add("EmptySD3LatentImage", width=144, height=88, batch_size=1)
    negative = graph.flux_conditioning(2, 33)
    return graph.sample(sampler, model, graph.flux_conditioning(1), latent, negative=negative, cfg=cfg, **inputs)


def refusal(client, models, devices, **options):
    """What the server says of a Parallel Config before anything runs."""
    graph = Graph()
    return " ".join(refusals(client, models, graph, graph.parallel_config(devices, **options)))


def refusals(client, models, graph, config):
    """The messages at `config`, a Parallel Config of the graph, when a MODEL is sampled with it."""
    model = graph.add("XDiTLoader", unet_name=models.flux(), weight_dtype="default", parallel_config=config)
    graph.save(sampled(graph, model))
    with pytest.raises(PromptRefused) as refused:
        client.validate(graph.prompt)
    return refused.value.node_errors[config.id]


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
        pytest.param("cpu:4", {"ring": 4}, 1.0, marks=full_run),
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


def run_with(client, models, comfy, **inputs):
    """What the console says of the degrees of a prompt with these inputs of Parallel Config, as they are."""
    graph = Graph()
    config = graph.add("XDiTParallelConfig", **{"attention": "auto", "unsupported": "refuse", **inputs})
    model = graph.add("XDiTLoader", unet_name=models.flux(), weight_dtype="default", parallel_config=config)
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    graph.save(graph.sample("KSampler", model, graph.flux_conditioning(1), latent, steps=2))
    start = comfy.log.stat().st_size
    client.run(graph.prompt)
    return comfy.log_since(start)


FLAT = {"devices": "cpu:2", "strategy": "manual", "ulysses": 1, "ring": 1, "cfg": 1, "batch": 1, "pipefusion": 1}
PIPELINE = {"devices": "cpu:2", "strategy": "manual", "strategy.pipefusion.patches": 3}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({**FLAT, "ring": 2}, "xDiT: ring 2 (as configured)"),
        ({**FLAT, "pipefusion": 2, "patches": 3, "warmup_steps": 0}, "xDiT: pipefusion 2 (as configured)"),
        ({"devices": "cpu:2", "strategy": "manual", "strategy.ulysses": 2}, "xDiT: ulysses 2 (as configured)"),
        ({**PIPELINE, "strategy.pipefusion": "2"}, "xDiT: pipefusion 2 (as configured)"),
        ({**PIPELINE, "strategy.pipefusion": 2}, "xDiT: pipefusion 2 (as configured)"),
        ({**FLAT, "strategy": "auto", "ulysses": 4}, "xDiT: ulysses 2 (Flux"),
    ],
    ids=["flat", "flat pipefusion", "one degree", "pipefusion", "pipefusion as a number", "auto"],
)
def test_degrees_are_taken_as_the_page_names_them_and_as_prompts_named_them_before(
    client, models, comfy, inputs, said
):  # fmt: skip
    log = run_with(client, models, comfy, **inputs)
    assert said in log and log.count("as configured") == (inputs["strategy"] == "manual")


def test_linked_degrees_and_a_linked_strategy(client, models, comfy):
    graph = Graph()
    two, one = (graph.add("PrimitiveInt", value=value) for value in (2, 1))
    manual = graph.add("PrimitiveString", value="manual")
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    for inputs in (
        {"strategy": "manual", "strategy.ring": two, "strategy.ulysses": one},
        {"strategy": "manual", "ring": two},
        {"strategy": manual, "strategy.ring": two},
    ):
        config = graph.add(
            "XDiTParallelConfig", devices="cpu:2", attention="auto", unsupported="run on one device", **inputs
        )
        model = graph.add("XDiTLoader", unet_name=models.flux(), weight_dtype="default", parallel_config=config)
        graph.save(graph.sample("KSampler", model, graph.flux_conditioning(1), latent, steps=2))
    start = comfy.log.stat().st_size
    client.run(graph.prompt)
    assert comfy.log_since(start).count("xDiT: ring 2 (as configured)") == 3


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({**FLAT, "ulysses": 4}, "ulysses 4 needs 4 device(s)"),
        ({**FLAT, "ulysses": 4, "strategy.ulysses": 2}, "ulysses is given twice, as 2 and as 4"),
        ({"devices": "cpu:2", "strategy": "manual", "strategy.ulyses": 2}, "strategy.ulyses is no input"),
        ({"devices": "cpu:2", "strategy.ulysses": 2}, "strategy is ''; possible: auto, manual"),
        ({"devices": "cpu:2", "strategy": "nonsense"}, "strategy is 'nonsense'; possible: auto, manual"),
        ({**PIPELINE, "strategy.pipefusion": "two"}, "pipefusion degree is 'two'"),
        ({**PIPELINE, "strategy.pipefusion": "2", "strategy.ring": 2}, "set ring to 1"),
    ],
)
def test_degrees_that_would_get_lost_are_refused_once(client, models, inputs, said):
    graph = Graph()
    config = graph.add("XDiTParallelConfig", attention="auto", unsupported="refuse", **inputs)
    (message,) = refusals(client, models, graph, config)
    assert said in message


NOT_PIPELINED = {"strategy.ulysses": 2, "strategy.ring": 1, "strategy.cfg": 1, "strategy.batch": 1}
PIPELINED = {"strategy.ulysses": 1, "strategy.ring": 1, "strategy.cfg": 1, "strategy.batch": 1}


@pytest.mark.parametrize(
    "shifted",
    [  # what ComfyUI's page sends of [cpu:2, strategy, 5 degrees, auto, run on one device, auto, 0, 1, auto]
        {"strategy": "auto", "attention": 2, "unsupported": 1, "compile": 1, "weights": 1},
        {"strategy": "manual", **NOT_PIPELINED, "strategy.pipefusion": 1, "attention": "auto"}
        | {"unsupported": "run on one device", "compile": "auto", "weights": 0},
        {"strategy": "manual", **PIPELINED, "strategy.pipefusion": 2, "strategy.pipefusion.patches": "auto"}
        | {"strategy.pipefusion.warmup_steps": "run on one device", "attention": "auto"}
        | {"unsupported": 0, "compile": 1, "weights": "auto"},
    ],
    ids=["auto", "manual", "pipefusion"],
)
def test_a_workflow_saved_with_the_former_inputs_says_what_to_do(client, models, shifted):
    graph = Graph()
    config = graph.add("XDiTParallelConfig", devices="cpu:2", **shifted)
    (message,) = refusals(client, models, graph, config)
    assert "saved before" in message and "new Parallel Config" in message


def test_the_page_shows_degrees_with_manual_and_patches_with_pipefusion(client):
    given = client.object_info()["XDiTParallelConfig"]["input"]

    def options(inputs, name):
        return {one["key"]: one["inputs"] for one in inputs[name][1]["options"]}

    strategy = options(given["required"], "strategy")
    assert list(strategy) == ["auto", "manual"] and strategy["auto"] == {"required": {}}
    assert list(strategy["manual"]["optional"]) == ["ulysses", "ring", "cfg", "batch", "pipefusion"]
    stages = options(strategy["manual"]["optional"], "pipefusion")
    assert stages["1"] == {"required": {}}
    assert all(list(stages[key]["optional"]) == ["patches", "warmup_steps"] for key in stages if key != "1")
    assert {"patches", "warmup_steps"}.isdisjoint(given["required"] | given["optional"])
