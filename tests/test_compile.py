"""Compiled ranks, through the real server: stock ComfyUI's latent, also after weights changed."""

from support.compare import TOLERANCE, both
from support.parity import relative_error


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
