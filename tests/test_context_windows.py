"""A long video sampled in overlapping windows, through the real server: the same latent as stock ComfyUI's."""

import pytest
from support.parity import relative_error
from support.prompts import Graph
from support.tiny_models import WAN_CONTEXT

TOLERANCE = 1e-5


def sampled(client, models, parallel, frames=25):
    graph = Graph()
    options = {"unet_name": models.wan(), "weight_dtype": "default"}
    if parallel is None:
        model = graph.add("UNETLoader", **options)
    else:
        model = graph.add("XDiTLoader", **options, parallel_config=graph.parallel_config(**parallel))
    model = graph.add(
        "WanContextWindowsManual",
        model=model, context_length=13, context_overlap=4, context_schedule="standard_static", context_stride=1,
        closed_loop=False, fuse_method="pyramid", freenoise=True, retain_first_frame=False,
        split_conds_to_windows=False,
    )  # fmt: skip
    positive, negative = (
        graph.add("RandomConditioning", seed=seed, tokens=tokens, context_dim=WAN_CONTEXT, pooled_dim=0, guidance=-1.0)
        for seed, tokens in ((1, 33), (2, 17))
    )
    latent = graph.add("EmptyHunyuanLatentVideo", width=64, height=48, length=frames, batch_size=1)
    saved = graph.save(graph.sample("KSampler", model, positive, latent, negative=negative, cfg=4.0, steps=3))
    return client.latent(client.run(graph.prompt), saved.id)


@pytest.mark.parametrize("degrees", [{"ulysses": 2}, {"cfg": 2}], ids=["ulysses 2", "cfg 2"])
def test_windows_are_sampled_by_the_ranks(client, models, degrees):
    stock = sampled(client, models, None)
    assert relative_error(sampled(client, models, {"devices": "cpu:2", **degrees}), stock) <= TOLERANCE
