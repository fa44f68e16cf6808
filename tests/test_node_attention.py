"""A node's own attention, which may look at all tokens and heads: the same latent as stock ComfyUI's."""

import pytest
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE, both
from support.parity import relative_error
from support.prompts import Graph
from support.scheduling import full_run
from support.tiny_models import WAN_CONTEXT

FOUR_HEADS = (512, 1, 2)
UNDIVIDED = "attention is not divided"
KINDS = {
    "ForeignAttentionTemperature": {"temperature": 0.5},
    "ForeignRegionalAttention": {"text": 16, "strength": 4.0},
    "ForeignHeadScales": {"step": 0.4},
    "ForeignQueryPosition": {"strength": 0.7},
    "ForeignNestedAttention": {},
}


def said(comfy, begin):
    return comfy.log.read_bytes()[begin:].decode(errors="replace")


def sampled(graph, model, steps=3, seed=7, sampler="KSampler", **inputs):
    latent = graph.add("EmptySD3LatentImage", width=128, height=80, batch_size=1)
    return graph.sample(sampler, model, graph.flux_conditioning(1), latent, steps=steps, seed=seed, **inputs)


def flux(client, models, node, steps=3, seed=7, **config):
    def build(graph, model):
        return sampled(graph, graph.add(node, model=model, **KINDS.get(node, {})), steps, seed)

    return both(client, models, build, **config)


@pytest.mark.parametrize("node", KINDS)
@pytest.mark.parametrize("degrees", [{"ulysses": 2}, {"ring": 2}, {"pipefusion": 2}], ids=str)
def test_flux_on_two_ranks(client, comfy, models, node, degrees):
    begin = comfy.log.stat().st_size
    stock, found = flux(client, models, node, **degrees)
    assert relative_error(found, stock) <= TOLERANCE
    console = said(comfy, begin)
    assert f"{node}.make.<locals>.override of" in console and "xdit-test-foreign" in console
    assert UNDIVIDED in console
    if "pipefusion" in degrees:
        assert "computes every step exactly" in console


@full_run
@pytest.mark.parametrize("node", ["ForeignRegionalAttention", "ForeignHeadScales"])
def test_flux_by_ulysses_and_ring_together(client, models, node):
    stock, found = flux(client, models, node, devices="cpu:4", flux=FOUR_HEADS, ulysses=2, ring=2)
    assert relative_error(found, stock) <= TOLERANCE


@full_run
@pytest.mark.parametrize("node", ["ForeignRegionalAttention", "ForeignHeadScales"])
def test_flux_compiled(client, comfy, models, node):
    begin = comfy.log.stat().st_size
    stock, found = flux(client, models, node, ulysses=2, compile="on")
    assert relative_error(found, stock) <= TOLERANCE
    assert "could not be compiled" not in said(comfy, begin)


@pytest.mark.parametrize("node", ["ForeignRegionalAttention", "ForeignHeadScales"])
def test_a_model_of_the_stock_loader(client, models, node):
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.flux(), weight_dtype="default")
    patched = graph.add(node, model=model, **KINDS[node])
    stock = graph.save(sampled(graph, patched))
    config = graph.parallel_config("cpu:2", ulysses=2)
    ours = graph.save(sampled(graph, patched, sampler="XDiTSampler", parallel_config=config))
    result = client.run(graph.prompt)
    assert relative_error(client.latent(result, ours.id), client.latent(result, stock.id)) <= TOLERANCE


def wan(client, models, node, **config):
    graph, latents = Graph(), []
    options = {"unet_name": models.wan(), "weight_dtype": "default"}
    parallel = graph.parallel_config("cpu:2", **config)
    for model in (graph.add("UNETLoader", **options), graph.add("XDiTLoader", **options, parallel_config=parallel)):
        patched = graph.add(node, model=model, **KINDS.get(node, {}))
        texts = [
            graph.add("RandomConditioning", seed=seed, tokens=10, context_dim=WAN_CONTEXT, pooled_dim=0, guidance=-1.0)
            for seed in (1, 2)
        ]
        latent = graph.add("EmptyHunyuanLatentVideo", width=64, height=48, length=5, batch_size=1)
        result = graph.sample("KSampler", patched, texts[0], latent, negative=texts[1], cfg=3.0, steps=2)
        latents.append(graph.save(result))
    result = client.run(graph.prompt)
    return [client.latent(result, latent.id) for latent in latents]


@pytest.mark.parametrize("node", ["ForeignQueryPosition", "ForeignHeadScales"])
@pytest.mark.parametrize("config", [{"ulysses": 2}, {"ring": 2}, {"ulysses": 2, "compile": "on"}], ids=str)
def test_cross_attention_of_wan(client, models, node, config):
    stock, found = wan(client, models, node, **config)
    assert relative_error(found, stock) <= TOLERANCE


def test_attention_that_remembers_is_refused_by_pipefusion_alone(client, models):
    stock, found = flux(client, models, "ForeignCountedAttention", ulysses=2)
    assert relative_error(found, stock) <= TOLERANCE
    with pytest.raises(PromptFailed, match="ForeignCountedAttention.*may remember something.*set pipefusion to 1"):
        flux(client, models, "ForeignCountedAttention", seed=8, pipefusion=2)
    stock, found = flux(client, models, "ForeignKernel", seed=9, ulysses=2)
    assert relative_error(found, stock) <= TOLERANCE


@pytest.mark.parametrize("degrees", [{"ulysses": 2}, {"ring": 2}, {"pipefusion": 2, "warmup_steps": 3}], ids=str)
def test_a_choice_of_kernel_costs_nothing(client, comfy, models, degrees):
    begin = comfy.log.stat().st_size
    stock, found = flux(client, models, "ForeignKernel", **degrees)
    assert relative_error(found, stock) <= TOLERANCE
    console = said(comfy, begin)
    assert UNDIVIDED not in console and "computes every step exactly" not in console
