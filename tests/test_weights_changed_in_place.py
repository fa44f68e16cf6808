"""A LoRA whose matrices a node writes in place: the ranks get what it holds now, as stock ComfyUI does."""

import pytest
from support.compare import TOLERANCE
from support.parity import relative_error
from support.prompts import Graph
from support.sampled import uncached

RANK = 64  # matrices above what goes inside the request


@pytest.mark.parametrize("by", ["operation", "data", "numpy"])
def test_a_lora_scaled_in_place(client, models, by):
    """The second time the loaders' MODELs and the LoRA's tensors come from ComfyUI's cache."""
    before, after = (latents(client, models, by, factor) for factor in (1.0, 3.0))
    for stock, *found in (before, after):
        assert all(relative_error(one, stock) <= TOLERANCE for one in found)
    assert relative_error(after[0], before[0]) > 0.01


def latents(client, models, by, factor):
    """Of stock ComfyUI, of the same MODEL in xDiT Sampler, and of an xDiT loader's MODEL with a LoRA of its own."""
    graph = Graph()
    config = {"parallel_config": graph.parallel_config("cpu:2", ulysses=2)}
    options = {"unet_name": models.flux(256, 1, 1), "weight_dtype": "default"}
    stock, ours = graph.add("UNETLoader", **options), graph.add("XDiTLoader", **options, **config)
    saved = []
    for loaded, sampler, parallel in ((stock, "KSampler", {}), (stock, "XDiTSampler", config), (ours, "KSampler", {})):
        lora = models.flux_lora(256, 1, 1, rank=RANK)
        model = graph.add("LoraLoaderModelOnly", model=loaded, lora_name=lora, strength_model=0.5)
        model = graph.add("ScaleLoraInPlace", model=model, factor=factor, by=by)
        latent = uncached(graph, graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1))
        saved.append(graph.save(graph.sample(sampler, model, graph.flux_conditioning(1), latent, **parallel)))
    result = client.run(graph.prompt)
    return [client.latent(result, node.id) for node in saved]
