"""Patches inside the attention of a MODEL, through the real server: the same latent as stock ComfyUI's."""

import pytest
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE, both
from support.parity import relative_error


def guided_by_nag(graph, model):
    """Flux at cfg 1 with a negative prompt that works through Normalized Attention Guidance."""
    nag = graph.add("NAGuidance", model=model, nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)
    return sampled(graph, nag)


def sampled(graph, model):
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    positive, negative = graph.flux_conditioning(1), graph.flux_conditioning(2)
    return graph.sample("KSampler", model, positive, latent, negative=negative)


@pytest.mark.parametrize("degrees", [{}, {"ring": 2}], ids=["auto", "ring 2"])
def test_nag_weighs_the_conditions_against_each_other(client, comfy, models, degrees):
    begin = len(comfy.log.read_text())
    stock, found = both(client, models, guided_by_nag, unsupported="refuse", **degrees)
    assert relative_error(found, stock) <= TOLERANCE
    said = comfy.log.read_text()[begin:]
    assert "runs unsharded" not in said
    assert "ulysses 2" in said or "ring 2" in said
    plain, _ = both(client, models, sampled)
    assert relative_error(stock, plain) > 100 * TOLERANCE


def test_conditions_that_belong_together_are_not_divided(client, models):
    with pytest.raises(PromptFailed, match="cfg degree 2, but the patch 'attn1_output_patch' on this MODEL weighs"):
        both(client, models, guided_by_nag, cfg=2)
    stock, found = both(client, models, sampled)
    assert relative_error(found, stock) <= TOLERANCE


def without_double_blocks(graph, model):
    """Guided by a call in which the first kind of blocks, which tells how long text and image are, does not run."""
    skipped = graph.add(
        "SkipLayerGuidanceDiT", model=model, double_layers="0, 1", single_layers="1", scale=3.0,
        start_percent=0.0, end_percent=1.0, rescaling_scale=0.0,
    )  # fmt: skip
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    negative = graph.flux_conditioning(2)
    return graph.sample("KSampler", skipped, graph.flux_conditioning(1), latent, negative=negative, cfg=3.0)


def test_a_call_that_leaves_out_the_first_blocks_runs_whole(client, comfy, models):
    begin = len(comfy.log.read_text())
    stock, found = both(client, models, without_double_blocks, ulysses=2)
    assert relative_error(found, stock) <= TOLERANCE
    assert "every rank runs them whole" in comfy.log.read_text()[begin:]
