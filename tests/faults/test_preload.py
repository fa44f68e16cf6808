"""Preloading that is in the way of a prompt, or goes wrong: nothing but a line, and the prompt is as without it."""

import pytest
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import log_lines, weight_reads
from support.waiting import answered_status, wait_until

WHOLE = "while reading whole weights"


@pytest.fixture(autouse=True)
def nothing_waits(faults):
    yield
    go(faults)


def load(faults, graph, name, **inputs):
    config = graph.parallel_config(faults.devices)
    return graph.add("XDiTLoader", unet_name=name, weight_dtype="default", parallel_config=config, **inputs)


def sample(faults, graph, model, seed):
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    sampled = graph.sample("KSampler", model, graph.flux_conditioning(1), latent, seed=seed, steps=4)
    return sampled.id, graph.save(sampled).id


def arm(faults, kind, rank=-1):
    """Something happens in ranks at a parameter of the next model that they read. They hold faults.name."""
    faults.latent()
    faults.latent(seed=81, fault={"kind": kind, "place": WHOLE, "rank": rank, "call": 20})


def preload(faults, name):
    """A prompt that only loads; its end says nothing of the ranks."""
    graph = Graph()
    graph.add("PreviewAny", source=load(faults, graph, name, preload=True))
    faults.client.run(graph.prompt)


def latent(faults, name, seed):
    graph = Graph()
    _, saved = sample(faults, graph, load(faults, graph, name), seed)
    return faults.client.latent(faults.client.run(graph.prompt), saved)


def stopped(faults, *ranks):
    wait_until(lambda: all((faults.counter / f"rank{rank}").exists() for rank in ranks))


def go(faults):
    (faults.counter / "go").touch()


def state(faults):
    return faults.client.get("/xdit/status")["state"]


def titles(faults):
    return [{model["title"] for model in rank["models"]} for rank in answered_status(faults.client)["ranks"]]


def cancels(faults):
    """How many requests each rank was told to end early."""
    return [sum("is cancelled" in line for line in log_lines(faults.comfy, rank)) for rank in (0, 1)]


def ended(faults):
    wait_until(lambda: state(faults) not in ("preloading", "working"))


def test_a_prompt_with_another_model_comes_first_and_the_preload_is_begun_anew_after_it(faults, models):
    second = models.flux(256, 1, 2, seed=82)
    expected = faults.latent(stock=True, seed=83)
    arm(faults, "waits")
    graph = Graph()
    first, other = load(faults, graph, faults.name), load(faults, graph, second, preload=True)
    for rank in (0, 1):
        first = graph.add("After", model=first, other=other, file=str(faults.counter / f"rank{rank}"))
    sampler, saved = sample(faults, graph, first, 83)
    before = cancels(faults)
    prompt_id = faults.client.queue(graph.prompt)
    wait_until(lambda: all(cancels(faults)[rank] > before[rank] for rank in (0, 1)))  # the sampler wants the ranks
    go(faults)
    result = faults.client.wait(prompt_id)
    assert result.error is None and result.progress(sampler)[-1] == (4, 4)
    assert relative_error(faults.client.latent(result, saved), expected) <= faults.tolerance
    ended(faults)
    assert titles(faults) == [{faults.name, second}] * 2
    read = weight_reads(faults.comfy)
    assert read.count(second) == 2  # begun, and begun anew
    assert latent(faults, second, 84).isfinite().all() and weight_reads(faults.comfy) == read


def test_a_sampler_waits_for_its_own_preload_with_the_bar_and_cancel_ends_only_the_wait(faults, models):
    second = models.flux(256, 1, 2, seed=85)
    arm(faults, "waits", rank=1)
    pids = faults.pids()
    graph = Graph()
    loaded = load(faults, graph, second, preload=True)
    loaded = graph.add("After", model=loaded, other=loaded, file=str(faults.counter / "rank1"))
    sampler, _ = sample(faults, graph, loaded, 85)
    before = faults.client.get("/xdit/status")["run"]
    prompt_id = faults.client.queue(graph.prompt)
    shown = lambda event: event.type == "progress" and event.data["node"] == sampler and event.data["max"] > 4  # noqa: E731
    faults.client.wait_for(prompt_id, shown, 30)
    assert faults.client.get("/xdit/status")["run"] == before  # it is no part of the last run
    faults.client.interrupt(prompt_id)
    assert faults.client.wait(prompt_id, 30).interrupted
    go(faults)
    ended(faults)
    assert all(second in held for held in titles(faults))
    read = weight_reads(faults.comfy)
    assert latent(faults, second, 86).isfinite().all()
    assert weight_reads(faults.comfy) == read and faults.pids() == pids


def test_unload_ends_it(faults, models):
    second = models.flux(256, 1, 2, seed=87)
    arm(faults, "waits", rank=1)
    preload(faults, second)
    stopped(faults, 1)
    assert state(faults) == "preloading"
    faults.client.queue({"hold": {"class_type": "HoldQueue", "inputs": {"seconds": 0.0}}})
    faults.client.post("/free", {"unload_models": True})
    go(faults)
    wait_until(lambda: state(faults) == "idle" and titles(faults) == [set(), set()])
    faults.assert_right(seed=88)


@pytest.mark.parametrize("kind", ["out of memory", "raises"])
def test_a_failure_is_one_line_and_the_prompt_goes_on(faults, models, kind):
    second = models.flux(256, 1, 2, seed=len(kind))
    arm(faults, kind, rank=1)
    pids, start = faults.pids(), faults.log_size
    preload(faults, second)
    ended(faults)
    log = faults.log_since(start)
    cause = {"out of memory": "out of memory on rank 1 (cpu) while loading", "raises": "fell over"}[kind]
    assert log.count(f"{second} is not preloaded: ") == 1 and cause in log
    assert relative_error(latent(faults, second, 89), latent_of_stock(faults, second, 89)) <= TOLERANCE
    assert faults.pids() == pids


def latent_of_stock(faults, name, seed):
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=name, weight_dtype="default")
    _, saved = sample(faults, graph, model, seed)
    return faults.client.latent(faults.client.run(graph.prompt), saved)


def test_a_rank_that_is_killed_is_replaced_by_the_next_prompt(faults, models):
    arm(faults, "killed", rank=1)
    pids, start = faults.pids(), faults.log_size
    preload(faults, models.flux(256, 1, 2, seed=90))
    wait_until(lambda: " is not preloaded: " in faults.log_since(start))
    log = faults.log_since(start)
    assert log.count(" is not preloaded: ") == 1 and "was ended by SIGKILL" in log
    faults.assert_right(seed=91)
    assert not faults.pids() & pids


def test_a_file_that_is_damaged_meanwhile_is_the_sampler_s_error(faults, models):
    blocking, second = models.flux(256, 1, 2, seed=92), models.flux(256, 1, 2, seed=93)
    arm(faults, "waits")
    pids, start = faults.pids(), faults.log_size
    preload(faults, blocking)
    stopped(faults, 0, 1)
    preload(faults, second)
    path = models.models / "diffusion_models" / second
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    go(faults)
    ended(faults)
    assert f"{second} is not preloaded: {path} changed on disk" in faults.log_since(start)
    with pytest.raises(PromptFailed) as failed:
        latent(faults, second, 94)
    assert second in failed.value.result.error.message
    faults.assert_right(seed=95)
    assert faults.pids() == pids
