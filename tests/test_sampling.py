"""Sampling in the ranks, through the real server: the same latent as stock ComfyUI, whichever sampler node runs."""

import pytest
from support.parity import relative_error
from support.prompts import Graph
from support.scheduling import full_run

TOLERANCE = 1e-5
WIDTH, HEIGHT = 128, 96


def sampled(client, models, ranks, sampler="XDiTSampler", size=(WIDTH, HEIGHT), batch=1, tokens=16, flux=(), **inputs):
    """The latent of one Flux run: on `ranks` CPU ranks, or by stock ComfyUI when `ranks` is None."""
    graph = Graph()
    if ranks is None:
        model = graph.add("UNETLoader", unet_name=models.flux(*flux), weight_dtype="default")
        sampler = {"XDiTSampler": "KSampler", "XDiTSamplerAdvanced": "SamplerCustomAdvanced"}.get(sampler, sampler)
    else:
        config = graph.parallel_config(f"cpu:{ranks}")
        model = graph.add("XDiTLoader", unet_name=models.flux(*flux), weight_dtype="default", parallel_config=config)
    latent = graph.add("EmptySD3LatentImage", width=size[0], height=size[1], batch_size=batch)
    run = graph.sample_custom if "Advanced" in sampler else graph.sample
    saved = graph.save(run(sampler, model, graph.flux_conditioning(1, tokens), latent, **inputs))
    return client.latent(client.run(graph.prompt), saved.id)


@pytest.mark.parametrize("sampler", ["XDiTSampler", "KSampler", "XDiTSamplerAdvanced", "SamplerCustomAdvanced"])
def test_every_sampler_node_gives_stock_comfyui_s_latent(client, models, sampler):
    stock = sampled(client, models, None, sampler)
    assert relative_error(sampled(client, models, 2, sampler), stock) <= TOLERANCE


@pytest.mark.parametrize(
    ("ranks", "sampler_name", "options"),
    [
        (1, "euler", {}),
        (2, "dpmpp_2m", {"size": (1000, 744), "steps": 2}),
        (3, "euler_ancestral", {"flux": (512, 2, 2), "tokens": 33}),
        (4, "dpmpp_2m_sde", {"flux": (512, 2, 2), "size": (144, 112), "batch": 2}),
        pytest.param(3, "uni_pc", {"size": (88, 72)}, marks=full_run),
    ],
)
def test_ranks_samplers_and_odd_sizes(client, models, ranks, sampler_name, options):
    stock = sampled(client, models, None, sampler_name=sampler_name, **options)
    found = sampled(client, models, ranks, sampler_name=sampler_name, **options)
    assert relative_error(found, stock) <= TOLERANCE
