"""The ranks' memory belongs to everyone: ComfyUI's model management sees it and gets it back, and it does not grow."""

import time

import pytest
from support.comfy_client import ComfyClient
from support.compare import TOLERANCE
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import anonymous_bytes, file_bytes, rank_pids, weight_reads
from support.tiny_models import SDXL_CONTEXT, SDXL_POOLED, ModelShelf
from support.waiting import answered_status, wait_until

DEVICES = "cpu:2"
RANKS = 2
SLACK = 24 * 2**20  # of a process's own memory, between prompts that should leave the same
UNLOAD = {"unload_models": True}


def load(graph, name, **inputs):
    config = graph.parallel_config(DEVICES)
    return graph.add("XDiTLoader", unet_name=name, weight_dtype="default", parallel_config=config, **inputs)


def flux_latent(graph, model, seed, steps=2, size=64):
    latent = graph.add("EmptySD3LatentImage", width=size, height=size, batch_size=1)
    return graph.sample("KSampler", model, graph.flux_conditioning(1), latent, seed=seed, steps=steps)


def sdxl_latent(graph, model, seed):
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    positive = graph.add(
        "RandomConditioning", seed=1, tokens=16, context_dim=SDXL_CONTEXT, pooled_dim=SDXL_POOLED, guidance=0.0
    )
    return graph.sample("KSampler", model, positive, latent, seed=seed, steps=1)


def run_flux(client, name, seed, **options):
    graph = Graph()
    saved = graph.save(flux_latent(graph, load(graph, name), seed, **options))
    return client.latent(client.run(graph.prompt), saved.id)


def run_sdxl(client, name, seed):
    graph = Graph()
    graph.save(sdxl_latent(graph, load(graph, name), seed))
    client.run(graph.prompt)


def weights(client):
    """Bytes of weights on each rank's device, as the sidebar tab shows them."""
    return [sum(model["bytes"] for model in rank["models"]) for rank in answered_status(client)["ranks"]]


def titles(client):
    return [[model["title"] for model in rank["models"]] for rank in answered_status(client)["ranks"]]


def loaded(result, node):
    """What LoadedModels shows of the ranks: (device, bytes)."""
    return [(device, size) for name, device, size in result.outputs[node.id]["loaded"] if name == "XDiTRanks"]


def released(client):
    return weights(client) == [0] * RANKS


# ComfyUI's model management


def test_comfyui_sees_what_the_ranks_hold(client, models):
    graph = Graph()
    seen = graph.add("LoadedModels", samples=flux_latent(graph, load(graph, models.flux()), 101))
    result = client.run(graph.prompt)
    held = weights(client)
    assert all(held)
    assert loaded(result, seen) == [("cpu", sum(held))]


def test_unload_models_reaches_the_ranks_and_the_next_prompt_reads_again(client, comfy, models):
    name = models.flux()
    expected = run_flux(client, name, 111)
    pids, read = rank_pids(comfy), weight_reads(comfy)
    client.post("/free", UNLOAD)
    wait_until(lambda: released(client))
    run_flux(client, name, 112)  # or ComfyUI takes the latent from its cache
    assert relative_error(run_flux(client, name, 111), expected) <= TOLERANCE
    assert rank_pids(comfy) == pids and weight_reads(comfy) == [*read, name]
    assert all(weights(client))


def test_unload_models_while_a_prompt_runs_waits_for_its_end(client, models):
    name = models.flux()
    expected = run_flux(client, name, 121, steps=40)
    run_flux(client, name, 122)
    graph = Graph()
    saved = graph.save(flux_latent(graph, load(graph, name), 121, steps=40, size=64), "test/unloaded")
    running = client.queue(graph.prompt)
    client.wait_for_step(running, 2)
    client.post("/free", UNLOAD)
    assert all(weights(client))
    result = client.wait(running)
    assert result.error is None and relative_error(client.latent(result, saved.id), expected) <= TOLERANCE
    wait_until(lambda: released(client))


def test_unload_models_after_cancel_waits_for_what_the_ranks_still_do(client, models):
    name = models.flux()
    run_flux(client, name, 131)
    graph = Graph()
    graph.save(flux_latent(graph, load(graph, name), 132, steps=20, size=512))
    running = client.queue(graph.prompt)
    client.wait_for_step(running, 1)
    client.interrupt(running)
    client.post("/free", UNLOAD)
    assert client.wait(running).interrupted
    wait_until(lambda: released(client))


def test_a_text_encoder_that_needs_room_gets_it_between_two_samplers(client, comfy, models):
    name = models.flux()
    run_flux(client, name, 141)
    read = weight_reads(comfy)
    graph = Graph()
    model = load(graph, name)
    wanted = graph.add("WantMemory", samples=flux_latent(graph, model, 142), more=2**30)
    seen = graph.add("LoadedModels", samples=wanted)
    saved = graph.save(graph.sample("KSampler", model, graph.flux_conditioning(1), seen, seed=143, steps=2))
    result = client.run(graph.prompt)
    assert client.latent(result, saved.id).isfinite().all()
    assert loaded(result, seen) == [] and weight_reads(comfy) == [*read, name]
    assert all(weights(client))


def test_who_needs_no_more_than_is_free_leaves_the_ranks_alone(client, comfy, models):
    name = models.flux()
    run_flux(client, name, 151)
    read, held = weight_reads(comfy), weights(client)
    graph = Graph()
    wanted = graph.add("WantMemory", samples=flux_latent(graph, load(graph, name), 152), more=-(2**28))
    seen = graph.add("LoadedModels", samples=wanted)
    assert loaded(client.run(graph.prompt), seen) == [("cpu", sum(held))]
    assert weight_reads(comfy) == read and weights(client) == held


def test_the_model_in_use_is_not_unloaded(client, comfy, models):
    """A sampler that stays in ComfyUI asks for all memory before each of its steps."""
    name = models.flux()
    run_flux(client, name, 161)
    read = weight_reads(comfy)
    graph = Graph()
    model = load(graph, name)
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    output = graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=162),
        guider=graph.add("BasicGuider", model=model, conditioning=graph.flux_conditioning(1)),
        sampler=graph.add("GreedySampler"),
        sigmas=graph.add("BasicScheduler", model=model, scheduler="simple", steps=3, denoise=1.0),
        latent_image=latent,
    )
    seen = graph.add("LoadedModels", samples=output)
    result = client.run(graph.prompt)
    held = weights(client)
    assert all(held) and loaded(result, seen) == [("cpu", sum(held))]
    assert weight_reads(comfy) == read


def given_back(comfy, before, held):
    """Whether each rank's own memory fell by what it held; `before`: as own_memory gave it."""
    fallen = [then - now for then, now in zip(before[1:], own_memory(comfy)[1:], strict=True)]
    return all(less > size - SLACK for less, size in zip(fallen, held, strict=True))


# The same after each prompt


def mapped(comfy, models, name):
    """Of a model's file in RAM: what each rank maps, and what all of them together take of it."""
    found = [file_bytes(pid, models.models / "diffusion_models" / name) for pid in sorted(rank_pids(comfy))]
    return [rss for rss, _ in found], sum(pss for _, pss in found)


def own_memory(comfy):
    """Bytes that no file backs: ComfyUI's, then each rank's."""
    return [anonymous_bytes(pid) for pid in (comfy.pid, *sorted(rank_pids(comfy)))]


def assert_no_more(now, first):
    """ComfyUI's process may by now have let go of what tests before this one left in it."""
    assert now[0] <= first[0] + SLACK
    assert now[1:] == pytest.approx(first[1:], abs=SLACK)


def test_the_first_prompt_the_third_and_one_after_two_other_models_leave_the_same(client, comfy, models):
    large = [models.sparse_flux(1024, 1, 1), models.sparse_flux(1024, 1, 2)]
    sdxl = models.sdxl()  # in ranks fp32, so what it takes is each rank's own
    run_sdxl(client, sdxl, 201)
    first, held = own_memory(comfy), weights(client)
    assert titles(client) == [[sdxl]] * RANKS and min(held) > 4 * SLACK
    for seed in (202, 203):
        run_sdxl(client, sdxl, seed)
    assert_no_more(own_memory(comfy), first)
    assert weights(client) == held
    for name in large:
        run_flux(client, name, 204)
        assert titles(client) == [[name]] * RANKS
        assert min(first[1:]) - max(own_memory(comfy)[1:]) > min(held) - SLACK
    run_sdxl(client, sdxl, 205)
    assert_no_more(own_memory(comfy), first)
    assert weights(client) == held and titles(client) == [[sdxl]] * RANKS
    assert [mapped(comfy, models, name) for name in large] == [([0] * RANKS, 0)] * 2


def test_two_models_in_one_workflow_are_both_kept(client, comfy, models):
    names = [models.flux(), models.flux(256, 1, 1)]
    seeds = iter(range(211, 220))

    def run():
        graph = Graph()
        latent = flux_latent(graph, load(graph, names[0]), next(seeds))
        graph.save(graph.sample("KSampler", load(graph, names[1]), graph.flux_conditioning(1), latent, seed=1, steps=1))
        client.run(graph.prompt)

    run()
    read = weight_reads(comfy)
    run()
    assert weight_reads(comfy) == read and [set(held) for held in titles(client)] == [set(names)] * RANKS


def test_all_ranks_share_one_copy_of_the_weights(client, comfy, models):
    """On the CPU, weights of the file's dtype are the file's pages; released weights are everywhere."""
    flux, sdxl = models.sparse_flux(1024, 1, 1), models.sdxl()
    run_flux(client, flux, 221)
    assert_one_copy(comfy, models, flux)
    run_sdxl(client, sdxl, 222)
    before = own_memory(comfy)
    held = weights(client)
    client.post("/free", UNLOAD)
    wait_until(lambda: given_back(comfy, before, held))
    assert released(client)
    assert_one_copy(comfy, models, sdxl)


def assert_one_copy(comfy, models, name):
    """Each rank has read it all but for a part of the modulations, which the ranks divide."""
    size = (models.models / "diffusion_models" / name).stat().st_size
    each, together = mapped(comfy, models, name)
    assert min(each) > 0.85 * size and 0.9 * size < together < 1.05 * size


def test_a_controlnet_is_dropped_too_and_comes_back_from_shared_memory(client, comfy, models):
    """On the CPU a ControlNet's weights are the pages of shared memory in which they came."""

    def run(seed):
        graph = Graph()
        positive = graph.add(
            "RandomConditioning", seed=1, tokens=16, context_dim=SDXL_CONTEXT, pooled_dim=SDXL_POOLED, guidance=0.0
        )
        controlled = graph.add(
            "ControlNetApplyAdvanced",
            positive=positive,
            negative=positive,
            control_net=graph.add("ControlNetLoader", control_net_name=models.sdxl_controlnet()),
            image=graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0x4080C0),
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        )
        latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
        options = {"negative": controlled.out(1), "seed": seed, "steps": 1, "cfg": 4.0}  # a condition on each rank
        saved = graph.save(graph.sample("KSampler", load(graph, models.sdxl()), controlled, latent, **options))
        return client.latent(client.run(graph.prompt), saved.id)

    run_sdxl(client, models.sdxl(), 231)
    sdxl, before = weights(client), own_memory(comfy)
    expected = run(232)
    held = weights(client)
    assert all(both - one > SLACK for both, one in zip(held, sdxl, strict=True))
    client.post("/free", UNLOAD)
    wait_until(lambda: given_back(comfy, before, sdxl))
    assert released(client)
    run(233)
    assert relative_error(run(232), expected) <= TOLERANCE
    assert weights(client) == held and own_memory(comfy)[1:] == pytest.approx(before[1:], abs=SLACK)


# Idle groups


def test_an_idle_group_drops_its_weights_and_later_ends(start_comfy):
    comfy = start_comfy("--cpu", "--force-fp32", OMP_NUM_THREADS="1", XDIT_IDLE_SECONDS="3", XDIT_IDLE_END_SECONDS="9")
    models = ModelShelf(comfy.base / "models")
    name = models.flux(256, 1, 1)
    with ComfyClient(comfy.url, comfy.base / "output") as client:
        expected = run_flux(client, name, 7)
        began = time.monotonic()
        pids = rank_pids(comfy)
        assert len(pids) == RANKS and all(weights(client))
        wait_until(lambda: released(client))
        assert rank_pids(comfy) == pids and time.monotonic() - began > 1
        graph = Graph()
        graph.add("PreviewAny", source=load(graph, name, preload=True))
        client.run(graph.prompt)
        wait_until(lambda: f"xDiT: preloaded {name}" in comfy.log.read_text(errors="replace"))
        wait_until(lambda: released(client))
        run_flux(client, name, 8)
        assert rank_pids(comfy) == pids and all(weights(client))
        began = time.monotonic()
        assert relative_error(run_flux(client, name, 7), expected) <= TOLERANCE
        wait_until(lambda: not rank_pids(comfy))
        assert time.monotonic() - began > 6
        assert client.get("/xdit/status")["state"] == "none"
