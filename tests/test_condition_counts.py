"""How many conditions a run may evaluate: with a cfg that changes, and with samplers that force the negative prompt."""

import pytest
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE, flux_loaders
from support.parity import relative_error
from support.prompts import Graph


def latents(client, models, guide, sampler="euler", which=(0, 1), **config):
    """Of the stock MODEL and ours with the guider that `guide` makes of (graph, MODEL, positive, negative)."""
    graph = Graph()
    saved = []
    loaders = flux_loaders(graph, models, **config)
    for model in (loaders[index] for index in which):
        guider = guide(graph, model, graph.flux_conditioning(1), graph.flux_conditioning(2, 33))
        sampled = graph.add(
            "SamplerCustomAdvanced",
            noise=graph.add("RandomNoise", noise_seed=7),
            guider=guider,
            sampler=graph.add("KSamplerSelect", sampler_name=sampler),
            sigmas=graph.add("BasicScheduler", model=model, scheduler="simple", steps=4, denoise=1.0),
            latent_image=graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1),
        )
        saved.append(graph.save(sampled))
    result = client.run(graph.prompt)
    return [client.latent(result, node.id) for node in saved]


def agree(pair):
    return relative_error(*reversed(pair)) <= TOLERANCE


def scheduled(graph, model, positive, negative):
    return graph.add("ForeignScheduledGuider", model=model, positive=positive, negative=negative)


def plain(graph, model, positive, negative):
    return graph.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=1.0)


def overridden(graph, model, positive, negative):
    """cfg 1, and ComfyUI's CFG Override in a part of the run."""
    model = graph.add("CFGOverride", model=model, cfg=4.0, start_percent=0.0, end_percent=0.6)
    return plain(graph, model, positive, negative)


@pytest.mark.parametrize("weights", ["replicate", "shard"])
@pytest.mark.parametrize("guide", [scheduled, overridden])
def test_a_cfg_that_begins_at_1(client, models, guide, weights):
    assert agree(latents(client, models, guide, cfg=2, weights=weights))
    assert agree(latents(client, models, guide))


@pytest.mark.parametrize("sampler", ["euler_cfg_pp", "res_multistep_cfg_pp", "gradient_estimation_cfg_pp"])
def test_samplers_that_need_the_negative_prompt_at_cfg_1(client, comfy, models, sampler):
    assert agree(latents(client, models, plain, sampler, cfg=2))
    start = comfy.log.stat().st_size
    latents(client, models, plain, sampler, which=(1,))
    assert "cfg 2" in comfy.log_since(start)


@pytest.mark.parametrize("sampler", ["euler", "res_multistep", "gradient_estimation", "dpm_adaptive"])
def test_plain_cfg_1_evaluates_one_condition(client, comfy, models, sampler):
    with pytest.raises(PromptFailed) as failed:
        latents(client, models, plain, sampler, which=(1,), cfg=2)
    assert "this sampler evaluates 1 condition(s) per step" in failed.value.result.error.message
    start = comfy.log.stat().st_size
    latents(client, models, plain, sampler, which=(1,))
    assert "cfg 2" not in comfy.log_since(start)
