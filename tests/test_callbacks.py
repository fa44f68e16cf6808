"""Callbacks of nodes: what they make of the latent, of the generators and of the process comes true as in stock."""

import pytest
from support.comfy_client import ComfyClient, PromptFailed
from support.compare import TOLERANCE, both, flux_loaders
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import rank_pids
from support.scheduling import full_run
from support.tiny_models import ModelShelf
from support.waiting import wait_until


def sampled(graph, model, node, **inputs):
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    inputs = {"seed": 7, "steps": 4, **inputs}
    return graph.add(node, model=model, positive=graph.flux_conditioning(1), latent_image=latent, **inputs)


def pair(client, models, node, ranks=None, **inputs):
    stock, found = both(client, models, lambda graph, model: sampled(graph, model, node, **inputs), **ranks or {})
    return relative_error(found, stock)


RANKS = [pytest.param({"devices": "cpu:3", "ring": 3}, marks=full_run), {"devices": "cpu:1"}, {"ulysses": 2}]


@pytest.mark.parametrize("ranks", RANKS, ids=str)
def test_an_edit_of_what_is_shown(client, models, ranks):
    for what in ("edit x", "edit x0"):
        assert pair(client, models, "ForeignCallback", ranks, what=what, steps=4, at=2) <= TOLERANCE


@pytest.mark.parametrize("what", ["edit both", "edit x", "edit x0", "draw"])
def test_edits_and_draws_at_every_step(client, models, what):
    assert pair(client, models, "ForeignStepCallback", {"ulysses": 2}, what=what) <= TOLERANCE


def test_edits_matter(client, models):
    """The comparisons above can fail: in stock, too, each gives another latent."""
    graph = Graph()
    stock = flux_loaders(graph, models)[0]
    kinds = ("settings", "edit x", "edit x0", "draw")
    saved = [graph.save(sampled(graph, stock, "ForeignStepCallback", what=what)) for what in kinds]
    result = client.run(graph.prompt)
    unedited, *edited = (client.latent(result, node.id) for node in saved)
    assert all(relative_error(latent, unedited) > 1e-3 for latent in edited)


@pytest.mark.parametrize("what", ["raise", "interrupt"])
def test_a_callback_that_ends_the_run(client, comfy, models, what):
    assert pair(client, models, "ForeignCallback", what="edit x", steps=3, at=1) <= TOLERANCE
    pids = rank_pids(comfy)
    graph = Graph()
    graph.save(sampled(graph, flux_loaders(graph, models)[1], "ForeignCallback", what=what, steps=6, at=2))
    if what == "raise":
        with pytest.raises(PromptFailed) as failed:
            client.run(graph.prompt)
        assert "enough at step 2" in failed.value.result.error.message
    else:
        result = client.wait(client.queue(graph.prompt), timeout=30)
        assert result.interrupted and result.error is None
    assert pair(client, models, "ForeignCallback", what="edit x0", steps=5, at=1) <= TOLERANCE
    assert rank_pids(comfy) == pids


def test_cancel_while_a_callback_is_asked(client, comfy, models):
    graph = Graph()
    graph.save(sampled(graph, flux_loaders(graph, models)[1], "ForeignCallback", what="edit x", steps=400, at=2))
    prompt_id = client.queue(graph.prompt)
    wait_until(lambda: client.get("/xdit/status")["state"] == "working")
    pids = rank_pids(comfy)
    client.interrupt(prompt_id)
    result = client.wait(prompt_id, timeout=30)
    assert result.interrupted and result.error is None
    assert pair(client, models, "ForeignCallback", what="edit x", steps=4, at=3) <= TOLERANCE
    assert rank_pids(comfy) == pids


def test_settings_that_a_callback_changes_are_told(client, comfy, models):
    start = comfy.log.stat().st_size
    assert pair(client, models, "ForeignStepCallback", what="settings", seed=3) <= TOLERANCE
    (line,) = [line for line in comfy.log_since(start).splitlines() if "cudnn.benchmark" in line]
    assert "ForeignStepCallback" in line and "the ranks go on as they began" in line


@pytest.mark.parametrize("ranks", RANKS, ids=str)
def test_settings_made_before_sampling_hold_in_the_ranks_for_this_run(client, models, ranks):
    assert pair(client, models, "ForeignSettings", ranks, change=True, seed=4) <= TOLERANCE
    assert pair(client, models, "ForeignSettings", ranks, change=False, seed=5) <= TOLERANCE


@pytest.mark.parametrize("ranks", [{"ulysses": 2}, {"cfg": 2}], ids=str)
def test_a_callback_that_sets_cfg(client, models, ranks):
    def build(graph, model):
        return sampled(graph, model, "ForeignCallbackSetsCfg", negative=graph.flux_conditioning(2, 33))

    stock, found = both(client, models, build, **ranks)
    assert relative_error(found, stock) <= TOLERANCE


def test_a_callback_that_takes_longer_than_ranks_may_stall(start_comfy):
    with_short_limit = start_comfy(XDIT_STALL_TIMEOUT="4")
    shelf = ModelShelf(with_short_limit.base / "models")
    with ComfyClient(with_short_limit.url, with_short_limit.base / "output") as own:
        assert pair(own, shelf, "ForeignStepCallback", {"ulysses": 2}, what="slow") <= TOLERANCE
