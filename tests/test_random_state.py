"""The global generators go on in the ranks where ComfyUI's stand, and in ComfyUI where the ranks' do."""

import pytest
from support.compare import TOLERANCE, both, flux_loaders
from support.parity import relative_error
from support.prompts import Graph


def sampled(graph, model, node, **inputs):
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    inputs = {"seed": 7, "steps": 4, **inputs}
    return graph.add(node, model=model, positive=graph.flux_conditioning(1), latent_image=latent, **inputs)


def agree(client, models, node, ranks=None, **inputs):
    stock, found = both(client, models, lambda graph, model: sampled(graph, model, node, **inputs), **ranks or {})
    return relative_error(found, stock) <= TOLERANCE


@pytest.mark.parametrize("ranks", [{"ulysses": 2}, {"devices": "cpu:3", "ring": 3}], ids=str)
def test_draws_of_python_numpy_and_torch_while_sampling_and_after(client, models, ranks):
    assert agree(client, models, "ForeignDraws", ranks)


def test_a_sampler_that_draws_its_steps(client, models):
    assert agree(client, models, "ForeignSeededSampler")


def test_the_draws_matter(client, models):
    """Other seeds of the generators give another latent: the comparison above can fail."""
    graph = Graph()
    stock = flux_loaders(graph, models)[0]
    saved = [graph.save(sampled(graph, stock, "ForeignDraws", seed=seed)) for seed in (1, 2)]
    result = client.run(graph.prompt)
    assert relative_error(*(client.latent(result, node.id) for node in saved)) > 1e-2


def test_a_step_that_is_done_in_two_by_chance(client, models):
    """By draws that nobody seeded: stock's own run draws others, and the further call's result hardly matters."""
    for seed in range(3):
        pair = []
        graph = Graph()
        for model in flux_loaders(graph, models):
            latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
            node = graph.sample_custom("SamplerCustomAdvanced", model, graph.flux_conditioning(1), latent, seed=seed)
            graph.prompt[node.id]["inputs"]["sampler"] = list(graph.add("ForeignChanceSampler"))
            pair.append(graph.save(node))
        result = client.run(graph.prompt)
        assert relative_error(*(client.latent(result, node.id) for node in reversed(pair))) <= TOLERANCE
