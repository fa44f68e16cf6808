"""Samplers that decide by what differs between ranks: rank 0 leads, and the latent is stock ComfyUI's."""

import pytest
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE, flux_loaders
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import rank_pids

RANKS = [
    ("cpu:2", {"ulysses": 2}),
    ("cpu:2", {"cfg": 2}),
    ("cpu:2", {"batch": 2}),
    ("cpu:2", {"cfg": 2, "weights": "shard"}),
    ("cpu:2", {"pipefusion": 2, "warmup_steps": 100}),
    ("cpu:3", {"ring": 3}),
]
TWO, SHARED = RANKS[0], RANKS[3]


def latents(client, models, sampler, ranks=TWO, cfg=3.0, steps=4, seed=7, sampling="SamplerCustomAdvanced", **inputs):
    """Stock's latent and ours, of a batch of two with a negative prompt. `sampler`: class of a SAMPLER node."""
    graph = Graph()
    devices, degrees = ranks
    saved = []
    config = graph.parallel_config(devices, **degrees)
    stock, loader = flux_loaders(graph, models, devices, **degrees)
    for model, node, more in ((stock, "SamplerCustomAdvanced", {}), given(loader, stock, config, sampling)):
        positive, negative = graph.flux_conditioning(1), graph.flux_conditioning(2, 33)
        guider = graph.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)
        sampled = graph.add(
            node,
            noise=graph.add("RandomNoise", noise_seed=seed),
            guider=guider,
            sampler=graph.add(sampler, **inputs),
            sigmas=graph.add("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=1.0),
            latent_image=graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=2),
            **more,
        )
        saved.append(graph.save(sampled))
    result = client.run(graph.prompt)
    return [client.latent(result, node.id) for node in saved]


def given(loader, stock, config, sampling):
    """Our MODEL to the stock node, or the stock MODEL to our node."""
    if sampling == "SamplerCustomAdvanced":
        return loader, sampling, {}
    return stock, sampling, {"parallel_config": config}


def agree(pair):
    stock, found = pair
    return relative_error(found, stock) <= TOLERANCE


@pytest.mark.parametrize(
    ("ranks", "who", "step"),
    [
        (TWO, "rank 0", 0),
        (TWO, "others", 4),
        *((ranks, *who) for ranks in RANKS for who in (("rank 0", 4), ("others", 2))),
    ],
    ids=str,
)
def test_a_rank_calls_once_more_than_the_others(client, models, who, step, ranks):
    """Before the first step, in the middle, after the last."""
    assert agree(latents(client, models, "ForeignDrift", ranks, who=who, step=step, call="guided"))


@pytest.mark.parametrize("ranks", [TWO, SHARED], ids=str)
@pytest.mark.parametrize("call", ["apply_model", "predict_noise", "calc_cond_batch"])
@pytest.mark.parametrize("who", ["rank 0", "others"])
def test_the_call_goes_past_the_guider(client, models, who, call, ranks):
    for step in (0, 4):
        assert agree(latents(client, models, "ForeignDrift", ranks, who=who, step=step, call=call))


@pytest.mark.parametrize("call", ["guided", "apply_model", "predict_noise", "calc_cond_batch"])
@pytest.mark.parametrize("ranks", [TWO, SHARED], ids=str)
def test_the_systems_randomness_decides(client, models, ranks, call):
    assert agree(latents(client, models, "ForeignToss", ranks, call=call))


@pytest.mark.parametrize(
    ("ranks", "call"),
    [
        *((ranks, "apply_model") for ranks in RANKS[1:4]),
        (TWO, "guided"),
        (TWO, "predict_noise"),
        (TWO, "calc_cond_batch"),
    ],
    ids=str,
)
def test_every_call_goes_past_the_guider(client, models, ranks, call):
    """And ranks start from other latents than rank 0, which is the one that counts, all with odd strides."""
    assert agree(latents(client, models, "ForeignDirect", ranks, call=call))


@pytest.mark.parametrize("ranks", RANKS, ids=str)
def test_unlike_cards_draw_other_noise(client, models, ranks):
    assert agree(latents(client, models, "ForeignUnlikeCards", ranks))


def test_on_a_stock_model_too(client, models):
    drift = {"who": "others", "step": 4, "call": "guided"}
    for sampler, inputs in (("ForeignUnlikeCards", {}), ("ForeignDrift", drift)):
        assert agree(latents(client, models, sampler, sampling="XDiTSamplerAdvanced", **inputs))


@pytest.mark.parametrize("who", ["rank 0", "others"])
@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("ranks", [RANKS[0], RANKS[5]], ids=str)
def test_a_sampler_that_catches_everything_is_ended_all_the_same(client, models, who, step, ranks):
    assert agree(latents(client, models, "ForeignClinging", ranks, who=who, step=step))


def test_a_sampler_that_raises_everywhere_leaves_the_group_in_order(client, comfy, models):
    assert agree(latents(client, models, "ForeignUnlikeCards", seed=31))
    pids = rank_pids(comfy)
    assert "this sampler fell over" in failure(client, models, "all")
    assert agree(latents(client, models, "ForeignUnlikeCards", seed=32))
    assert rank_pids(comfy) == pids


@pytest.mark.parametrize("who", ["rank 0", "rank 1"])
def test_a_sampler_that_raises_on_one_rank_ends_the_group(client, models, who):
    assert f"sampling failed on {who}" in (text := failure(client, models, who)) and "fell over" in text
    assert agree(latents(client, models, "ForeignUnlikeCards", seed=33))


def failure(client, models, who):
    graph = Graph()
    model = flux_loaders(graph, models, "cpu:2", ulysses=2)[1]
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    sampled = graph.sample_custom("SamplerCustomAdvanced", model, graph.flux_conditioning(1), latent)
    graph.prompt[sampled.id]["inputs"]["sampler"] = list(graph.add("ForeignRaising", who=who))
    graph.save(sampled)
    with pytest.raises(PromptFailed) as failed:
        client.run(graph.prompt)
    return failed.value.result.error.message
