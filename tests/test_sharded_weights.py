"""Weights divided over the ranks, through the real server: stock ComfyUI's latents, one cut of each block per rank."""

import pytest
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE, both
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import rank_pids
from support.tiny_models import SDXL_CONTEXT, SDXL_POOLED, WAN_CONTEXT


def flux(client, models, weights=None, lora=None, file=None, guidance=1.0, images=1, areas=False, **parallel):
    """The latent of a Flux run with that Parallel Config, or of stock ComfyUI where `weights` is None.

    `areas`: the positive prompt has two more, each on its own part of the image.
    """
    graph = Graph()
    options = {"unet_name": file or models.flux(512, 2, 2), "weight_dtype": "default"}
    if weights is None:
        model = graph.add("UNETLoader", **options)
    else:
        config = graph.parallel_config(**{"devices": "cpu:2", "ulysses": 2, **parallel}, weights=weights)
        model = graph.add("XDiTLoader", **options, parallel_config=config)
    if lora is not None:
        name = models.flux_lora(512, 2, 2)
        model = graph.add("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=lora)
    latent = graph.add("EmptySD3LatentImage", width=144, height=88, batch_size=images)
    text = [graph.flux_conditioning(1), graph.flux_conditioning(2, 33)]
    for seed, width in ((3, 64), (4, 80)) if areas else ():
        part = graph.flux_conditioning(seed)
        part = graph.add("ConditioningSetArea", conditioning=part, width=width, height=64, x=16, y=8, strength=1.0)
        text[0] = graph.add("ConditioningCombine", conditioning_1=text[0], conditioning_2=part)
    saved = graph.save(graph.sample("KSampler", model, text[0], latent, negative=text[1], cfg=guidance, steps=3))
    return client.latent(client.run(graph.prompt), saved.id)


def test_flux_while_a_lora_and_the_mode_change(client, comfy, models):
    stock, pids = {lora: flux(client, models, lora=lora) for lora in (None, 1.0, 0.4)}, None
    for weights, lora in (
        ("shard", None),
        ("shard", 1.0),
        ("shard", 0.4),
        ("shard + offload", 0.4),
        ("replicate", 0.4),
        ("shard", None),
    ):
        assert relative_error(flux(client, models, weights, lora), stock[lora]) <= TOLERANCE, (weights, lora)
        pids = pids or rank_pids(comfy)
        assert rank_pids(comfy) == pids, "no rank was restarted"


def test_a_quantised_file(client, models):
    """Every format: tests/models/test_divided_weights.py."""
    file = models.quantised_flux("float8_e4m3fn", 512, 2, 2)
    divided, replicated = (flux(client, models, weights, 1.0, file) for weights in ("shard", "replicate"))
    assert (divided == replicated).all()


def test_wan(client, models):
    def sampled(weights):
        graph = Graph()
        config = graph.parallel_config("cpu:2", ulysses=2, weights=weights)
        model = graph.add("XDiTLoader", unet_name=models.wan(), weight_dtype="default", parallel_config=config)
        model = graph.add("LoraLoaderModelOnly", model=model, lora_name=models.wan_lora(), strength_model=0.6)
        text = graph.add("RandomConditioning", seed=1, tokens=17, context_dim=WAN_CONTEXT, pooled_dim=0, guidance=-1.0)
        latent = graph.add("EmptyHunyuanLatentVideo", width=128, height=96, length=5, batch_size=1)
        saved = graph.save(graph.sample("KSampler", model, text, latent, steps=2))
        return client.latent(client.run(graph.prompt), saved.id)

    assert relative_error(sampled("shard"), sampled("replicate")) <= TOLERANCE


@pytest.mark.parametrize("degree", ["ulysses", "batch"])
def test_a_sampler_that_stays_in_comfyui(client, models, degree):
    """Each model call by itself goes to the ranks, and between two calls blocks are gathered ahead."""

    def build(graph, model):
        latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=2)
        sampled = graph.sample_custom("SamplerCustomAdvanced", model, graph.flux_conditioning(1), latent)
        graph.prompt[sampled.id]["inputs"]["sampler"] = list(graph.add("LockedSampler"))
        return sampled

    stock, found = both(client, models, build, **{degree: 2}, weights="shard")
    assert relative_error(found, stock) <= TOLERANCE


def test_two_models_in_one_guider(client, models):
    def sampled(weights):
        graph = Graph()
        config = graph.parallel_config("cpu:2", batch=2, weights=weights)
        first, second = (
            graph.add("XDiTLoader", unet_name=name, weight_dtype="default", parallel_config=config)
            for name in (models.flux(512, 2, 2), models.flux(256, 1, 1))
        )
        latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=3)
        text = graph.flux_conditioning(1), graph.flux_conditioning(2, 33)
        guider = graph.add("DualModelGuider", model=first, model_negative=second, positive=text[0], negative=text[1],
                           cfg=3.0)  # fmt: skip
        run = graph.sample_custom("SamplerCustomAdvanced", first, text[0], latent, steps=2)
        graph.prompt[run.id]["inputs"]["guider"] = list(guider)
        saved = graph.save(run)
        return client.latent(client.run(graph.prompt), saved.id)

    assert (sampled("shard") == sampled("replicate")).all()


def error_of(client, graph) -> str:
    with pytest.raises(PromptFailed) as failed:
        client.run(graph.prompt)
    return failed.value.result.error.message


def test_what_cannot_be_divided_is_refused(client, models):
    graph = Graph()
    config = graph.parallel_config("cpu:1", weights="shard")
    model = graph.add("XDiTLoader", unet_name=models.flux(), weight_dtype="default", parallel_config=config)
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    graph.save(graph.sample("KSampler", model, graph.flux_conditioning(1), latent))
    message = error_of(client, graph)
    assert "weights 'shard'" in message and "name more devices" in message

    graph = Graph()
    config = graph.parallel_config("cpu:2", weights="shard + offload")
    model = graph.add("XDiTLoader", unet_name=models.sdxl(), weight_dtype="default", parallel_config=config)
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    text = graph.add(
        "RandomConditioning", seed=1, tokens=9, context_dim=SDXL_CONTEXT, pooled_dim=SDXL_POOLED, guidance=-1.0
    )
    graph.save(graph.sample("KSampler", model, text, latent))
    message = error_of(client, graph)
    assert "UNetModel has no plan" in message and "set weights to replicate" in message


def test_a_hook_lora_is_refused_where_weights_are_divided(client, models):
    graph = Graph()
    config = graph.parallel_config("cpu:2", ulysses=2, weights="shard")
    model = graph.add("XDiTLoader", unet_name=models.flux(), weight_dtype="default", parallel_config=config)
    hooks = graph.add("CreateHookLoraModelOnly", lora_name=models.flux_lora(), strength_model=1.0)
    text = graph.add(
        "ConditioningSetProperties",
        cond_NEW=graph.flux_conditioning(1),
        strength=1.0,
        set_cond_area="default",
        hooks=hooks,
    )
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    graph.save(graph.sample("KSampler", model, text, latent, negative=graph.flux_conditioning(1)))
    message = error_of(client, graph)
    assert "hook LoRA" in message and "set weights to replicate" in message


@pytest.mark.parametrize(
    ("parallel", "work", "runs"),
    [
        ({"cfg": 2}, {"areas": True}, (("shard", None), ("shard", 1.0), ("shard + offload", None))),
        ({"batch": 2}, {"images": 3}, (("shard", 1.0),)),
        ({"devices": "cpu:4", "cfg": 2, "batch": 2}, {"images": 3, "areas": True}, (("shard", 0.4),)),
    ],
    ids=["cfg", "batch", "cfg and batch"],
)
def test_conditions_and_images(client, comfy, models, parallel, work, runs):
    parallel, pids = {"ulysses": 1, "guidance": 3.0, **parallel, **work}, None
    for weights, lora in runs:
        found = flux(client, models, weights, lora, **parallel)
        pids = pids or rank_pids(comfy)
        assert (found == flux(client, models, "replicate", lora, **parallel)).all(), (weights, lora)
        assert rank_pids(comfy) == pids, "no rank was restarted"
    assert relative_error(found, flux(client, models, lora=lora, guidance=3.0, **work)) <= TOLERANCE


@pytest.mark.parametrize(
    "parallel",
    [
        {"devices": "cpu:2", "ulysses": 1, "ring": 2},
        {"devices": "cpu:4", "cfg": 2, "ulysses": 2},  # last: another group of ranks
    ],
    ids=str,
)
def test_flux_with_other_degrees(client, models, parallel):
    stock = flux(client, models, lora=0.7, guidance=3.0)
    assert relative_error(flux(client, models, "shard", lora=0.7, guidance=3.0, **parallel), stock) <= TOLERANCE
