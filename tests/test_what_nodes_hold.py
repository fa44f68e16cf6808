"""Functions and objects of a node that hold each other, parts of the model, or what they collect: as in ComfyUI."""

import pytest
from support.compare import TOLERANCE, flux_loaders
from support.parity import relative_error
from support.prompts import Graph

KINDS = pytest.mark.parametrize("ours", ["loader", "stock"])


def sampled(client, models, patch, ours, scale=1.0, lora=False, out=lambda graph, patched, latent: latent, **config):
    """The latents of a graph by stock ComfyUI and by two ranks. `patch`: (graph, MODEL) → the node that patches it."""
    graph = Graph()
    stock, loaded = flux_loaders(graph, models, **config)
    parallel = graph.parallel_config("cpu:2", **config)
    saved = []
    for sampler, model in (("KSampler", stock), ("XDiTSampler", loaded if ours == "loader" else stock)):
        if lora:
            model = graph.add("LoraLoaderModelOnly", model=model, lora_name=models.flux_lora(), strength_model=1.0)
        patched = patch(graph, model)
        inputs = {"parallel_config": parallel} if sampler == "XDiTSampler" else {}
        latent = graph.sample(
            sampler,
            patched,
            graph.flux_conditioning(1),
            graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1),
            negative=graph.flux_conditioning(2, 33),
            cfg=scale,
            **inputs,
        )
        saved.append(graph.save(out(graph, patched, latent)))
    result = client.run(graph.prompt)
    return [client.latent(result, node.id) for node in saved]


def error(latents):
    return relative_error(latents[1], latents[0])


@KINDS
def test_functions_share_a_variable(client, models, ours):
    latents = sampled(client, models, lambda graph, model: graph.add("ForeignSharedVariable", model=model), ours)
    assert error(latents) <= TOLERANCE


@KINDS
def test_functions_that_refer_to_each_other_and_to_the_model(client, models, ours):
    latents = sampled(client, models, lambda graph, model: graph.add("ForeignCycle", model=model), ours)
    assert error(latents) <= TOLERANCE


@KINDS
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("how", ["object", "partial", "bound method", "stored super"])
def test_an_object_that_holds_parts_of_the_model(client, models, how, lora, ours):
    latents = sampled(client, models, lambda graph, model: graph.add("ForeignHolder", model=model, how=how), ours,
                      lora=lora)  # fmt: skip
    assert error(latents) <= TOLERANCE


@KINDS
@pytest.mark.parametrize("config", [{"ulysses": 2}, {"cfg": 2}])
def test_options_are_copied_while_it_samples(client, models, ours, config):
    patch = lambda graph, model: graph.add("ForeignDeepCopy", model=model)  # noqa: E731
    assert error(sampled(client, models, patch, ours, scale=3.0, **config)) <= TOLERANCE


@KINDS
def test_what_a_patch_collects_is_there_for_a_later_node(client, models, ours):
    def collected(graph, patched, latent):
        return graph.add("ForeignCollected", collected=patched.out(1), samples=latent)

    def patch(graph, model):  # one with the same inputs would be taken from ComfyUI's cache
        return graph.add("ForeignCollector", model=model, number=len(graph.prompt))

    latents = sampled(client, models, patch, ours, out=collected)
    assert latents[0].shape == latents[1].shape and error(latents) <= TOLERANCE


def test_the_state_that_a_sampler_leaves_in_its_options(client, models):
    graph = Graph()
    stock, loaded = flux_loaders(graph, models)
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    saved = []
    for model in (stock, loaded):
        node = graph.add(
            "ForeignStateSampler",
            model=model,
            positive=graph.flux_conditioning(1),
            latent_image=latent,
            steps=4,
            seed=7,
        )
        saved += [graph.save(node.out(0)), graph.save(node.out(1))]
    result = client.run(graph.prompt)
    latents = [client.latent(result, node.id) for node in saved]
    assert error((latents[0], latents[2])) <= TOLERANCE
    assert error((latents[1], latents[3])) <= TOLERANCE


@KINDS
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_lora_bypass(client, models, strength, ours):
    def patch(graph, model):
        return graph.add(
            "LoraLoaderBypassModelOnly", model=model, lora_name=models.flux_lora(), strength_model=strength
        )

    plain = sampled(client, models, lambda graph, model: model, ours)
    latents = sampled(client, models, patch, ours)
    assert relative_error(latents[0], plain[0]) > 1e-2
    assert error(latents) <= TOLERANCE


@KINDS
def test_a_v3_node_s_class_in_a_function(client, comfy, models, ours):
    mark = comfy.log.stat().st_size

    def patch(graph, model):
        return graph.add("DifferentialDiffusion", model=model, strength=0.7)

    assert error(sampled(client, models, patch, ours)) <= TOLERANCE
    assert "each model call goes to the ranks" not in comfy.log.read_text(errors="replace")[mark:]


@KINDS
@pytest.mark.parametrize("factor", [0.8, 0.6])
def test_variables_of_a_pack_s_module(client, models, factor, ours):
    """Set by the node, read and changed while it samples, read by a later node."""
    results = []
    for ranks in (False, True):
        graph = Graph()
        stock, loaded = flux_loaders(graph, models)
        model = loaded if ranks and ours == "loader" else stock
        inputs = {"parallel_config": graph.parallel_config("cpu:2")} if ranks else {}
        patched = graph.add("ForeignModuleState", model=model, factor=factor, offset=0.05)
        empty = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
        sampler = "XDiTSampler" if ranks else "KSampler"
        latent = graph.sample(sampler, patched, graph.flux_conditioning(1), empty, seed=int(100 * factor), **inputs)
        saved = [graph.save(latent), graph.save(graph.add("ForeignModuleStateRead", samples=latent))]
        result = client.run(graph.prompt)
        results.append([client.latent(result, node.id) for node in saved])
        client.free()
    for expected, found in zip(*results, strict=True):
        assert expected.shape == found.shape and relative_error(found, expected) <= TOLERANCE


@KINDS
def test_an_attribute_as_an_object_patch(client, models, ours):
    plain = sampled(client, models, lambda graph, model: model, ours)
    for theta in (500, 200):
        patch = lambda graph, model: graph.add("ForeignAttributePatch", model=model, theta=theta)  # noqa: B023, E731
        latents = sampled(client, models, patch, ours)
        assert error(latents) <= TOLERANCE
        assert relative_error(latents[0], plain[0]) > 100 * TOLERANCE
