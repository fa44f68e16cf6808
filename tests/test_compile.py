"""Compiled ranks, through the real server: stock ComfyUI's latent, also after weights changed."""

from support.compare import TOLERANCE, both, flux_loaders
from support.parity import relative_error
from support.prompts import Graph


def sampled(lora=None, strength=1.0):
    def build(graph, model):
        if lora:
            model = graph.add("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=strength)
        latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
        return graph.sample("KSampler", model, graph.flux_conditioning(1), latent)

    return build


def test_compiled_blocks_follow_the_weights(client, comfy, models):
    begin = len(comfy.log.read_text())
    latents = []
    for build, options in (
        (sampled(), {}),
        (sampled(models.flux_lora()), {}),
        (sampled(models.flux_lora(), strength=0.3), {"ulysses": 2, "weights": "shard"}),
        (sampled(), {}),
    ):
        stock, found = both(client, models, build, compile="on", **options)
        assert relative_error(found, stock) <= TOLERANCE
        latents.append(found)
    said = comfy.log.read_text()[begin:]
    assert said.count(", compiled") == 4
    assert "could not be compiled" not in said
    assert relative_error(latents[1], latents[0]) > 100 * TOLERANCE
    assert relative_error(latents[2], latents[1]) > 100 * TOLERANCE


def test_without_being_asked_a_cpu_does_not_compile(client, comfy, models):
    begin = len(comfy.log.read_text())
    stock, found = both(client, models, sampled())
    assert relative_error(found, stock) <= TOLERANCE
    assert ", compiled" not in comfy.log.read_text()[begin:]


def test_nodes_that_compile_the_model_mean_the_ranks_own_compiling(client, comfy, models):
    """ComfyUI's node, and one that puts each block's compiled form into its place; on both kinds of MODEL."""
    begin = len(comfy.log.read_text())
    graph = Graph()
    stock, ours = flux_loaders(graph, models, compile="off")
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    saved = [graph.save(graph.sample("KSampler", stock, graph.flux_conditioning(1), latent))]
    for model, sampler in ((ours, "KSampler"), (stock, "XDiTSampler")):
        model = graph.add("TorchCompileModel", model=model, backend="inductor")
        model = graph.add("ForeignCompiledBlocks", model=model)
        inputs = {"parallel_config": graph.parallel_config("cpu:2", ulysses=2)} if sampler == "XDiTSampler" else {}
        saved.append(graph.save(graph.sample(sampler, model, graph.flux_conditioning(1), latent, **inputs)))
    result = client.run(graph.prompt)
    expected, *found = (client.latent(result, node.id) for node in saved)
    assert max(relative_error(latent, expected) for latent in found) <= TOLERANCE
    said = comfy.log.read_text()[begin:]
    assert said.count(", compiled") == 1
    assert said.count("a node compiles this MODEL") == 2
    assert "could not be compiled" not in said and "each model call goes to the ranks" not in said
