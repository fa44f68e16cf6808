"""Conditions and rows divided over groups of ranks: the same latents as stock ComfyUI's."""

import pytest
from support.comfy_client import PromptFailed
from support.guided_flux import guided_flux
from support.images import write_random_image
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import rank_pids

TOLERANCE = 1e-5


def flux(client, models, config=None, cfg=3.0, **inputs):
    return guided_flux(client, models, config, cfg, **inputs)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"devices": "cpu:2", "cfg": 2}, {}),
        ({"devices": "cpu:2", "cfg": 2}, {"batch": 2, "sampler_name": "dpmpp_2m_sde"}),
        ({"devices": "cpu:2", "batch": 2}, {"batch": 3, "sampler_name": "dpmpp_2m_sde"}),
        ({"devices": "cpu:2", "batch": 2}, {"batch": 3, "cfg": 1.0, "sampler_name": "dpm_adaptive"}),
        ({"devices": "cpu:4", "cfg": 2, "batch": 2}, {"batch": 3}),
        ({"devices": "cpu:4", "cfg": 2, "ulysses": 2}, {}),
        ({"devices": "cpu:4", "batch": 2, "ulysses": 2}, {"batch": 2, "cfg": 1.0}),
    ],
    ids=lambda value: " ".join(f"{name} {item}" for name, item in value.items()) or "plain",
)
def test_divided_equals_stock(client, models, config, options):
    assert relative_error(flux(client, models, config, **options), flux(client, models, **options)) <= TOLERANCE


@pytest.mark.parametrize("config", [{"cfg": 2}, {"batch": 2}], ids=str)
def test_controlnet_on_one_side_only(client, comfy, models, config):
    hint = write_random_image(comfy.base / "input" / "hint.png", 128, 96)
    stock = flux(client, models, batch=2, controlled=hint)
    found = flux(client, models, {"devices": "cpu:2", **config}, batch=2, controlled=hint)
    assert relative_error(found, stock) <= TOLERANCE


@pytest.mark.parametrize("config", [{"cfg": 2}, {"batch": 2}, {}], ids=["cfg", "batch", "auto"])
def test_sdxl(client, models, config):
    latents = []
    for parallel in (None, {"devices": "cpu:2", **config}):
        graph = Graph()
        options = {} if parallel is None else {"parallel_config": graph.parallel_config(**parallel)}
        loader = "UNETLoader" if parallel is None else "XDiTLoader"
        model = graph.add(loader, unet_name=models.sdxl(), weight_dtype="default", **options)
        latent = graph.add("EmptyLatentImage", width=128, height=64, batch_size=2)
        texts = [
            graph.add("RandomConditioning", seed=seed, tokens=77, context_dim=2048, pooled_dim=1280, guidance=-1.0)
            for seed in (1, 2)
        ]
        sampled = graph.sample("KSampler", model, texts[0], latent, negative=texts[1], cfg=5.0, scheduler="normal")
        saved = graph.save(sampled)
        latents.append(client.latent(client.run(graph.prompt), saved.id))
    assert relative_error(latents[1], latents[0]) <= TOLERANCE


@pytest.mark.parametrize("weights", ["replicate", "shard"])
def test_a_condition_that_fails_in_one_group_fails_the_prompt_alone(client, comfy, models, weights):
    config = {"devices": "cpu:2", "cfg": 2, "weights": weights}
    expected = flux(client, models, config)
    before = rank_pids(comfy)
    graph = Graph()
    parallel = graph.parallel_config(**config)
    model = graph.add("XDiTLoader", unet_name=models.flux(), weight_dtype="default", parallel_config=parallel)
    wrong = graph.add("RandomConditioning", seed=2, tokens=17, context_dim=24, pooled_dim=64, guidance=3.5)
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    graph.save(graph.sample("KSampler", model, graph.flux_conditioning(1), latent, negative=wrong, cfg=3.0))
    with pytest.raises(PromptFailed, match="sampling failed on rank 1.*(mat1|shape|size)"):
        client.run(graph.prompt)
    assert rank_pids(comfy) == before
    again = flux(client, models, config, steps=3)
    assert again.shape == expected.shape
    assert rank_pids(comfy) == before
