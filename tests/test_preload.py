"""Weights that a loader has the ranks read before a sampler asks for them."""

import psutil
import pytest
from support.compare import TOLERANCE
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import held, unload, weight_reads
from support.waiting import answered_status, wait_until

DEVICES = "cpu:2"
RANKS = 2
SINGLE_BLOCK = 15 * 3072**2 * 4  # bytes
LOADERS = {"XDiTLoader": "unet_name", "XDiTCheckpointLoader": "ckpt_name", "XDiTDiffusersLoader": "model_path"}
STEPS = 2


def load(graph, name, preload=True, kind="XDiTLoader", **config):
    dtype = {} if kind == "XDiTCheckpointLoader" else {"weight_dtype": "default"}
    config = graph.parallel_config(DEVICES, **config)
    return graph.add(kind, **{LOADERS[kind]: name}, **dtype, parallel_config=config, preload=preload)


def preload(client, name, **how):
    """A prompt that only loads; its end says nothing of the ranks."""
    graph = Graph()
    graph.add("PreviewAny", source=load(graph, name, **how))
    client.run(graph.prompt)


def sample(graph, model, seed):
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    return graph.sample("KSampler", model, graph.flux_conditioning(1), latent, seed=seed, steps=STEPS)


def run(client, name, seed, **how):
    """The latent, and what the sampler's progress bar showed."""
    graph = Graph()
    sampled = sample(graph, load(graph, name, **how), seed)
    saved = graph.save(sampled)
    result = client.run(graph.prompt)
    return client.latent(result, saved.id), result.progress(sampled.id)


def wait_until_preloaded(client, *names):
    wait_until(lambda: answered_status(client)["state"] == "idle")
    assert [set(rank) for rank in held(client)] == [set(names)] * RANKS
    return held(client)


@pytest.mark.parametrize("kind", LOADERS)
def test_the_weights_are_there_before_the_sampler_asks_and_the_latent_is_the_same(client, comfy, models, kind):
    make = {"XDiTLoader": models.flux, "XDiTCheckpointLoader": models.flux_checkpoint}
    name = make.get(kind, models.flux_diffusers)(256, 1, 2)
    expected, _ = run(client, name, 301, preload=False, kind=kind)
    whole = held(client)
    unload(client)
    preload(client, name, kind=kind)
    (title,) = whole[0]
    assert wait_until_preloaded(client, title) == whole
    read = weight_reads(comfy)
    run(client, name, 302, kind=kind)  # or ComfyUI takes the latent from its cache
    latent, shown = run(client, name, 301, kind=kind)
    assert relative_error(latent, expected) <= TOLERANCE
    assert weight_reads(comfy) == read and shown == [(step, STEPS) for step in range(1, STEPS + 1)]


def test_divided_weights_are_preloaded_divided(client, comfy, models):
    name = models.flux(256, 4, 8, seed=303)
    shard = {"ulysses": 2, "weights": "shard"}
    expected, _ = run(client, name, 304, preload=False, **shard)
    divided = held(client)
    assert all(rank[name] < (models.models / "diffusion_models" / name).stat().st_size for rank in divided)
    unload(client)
    preload(client, name, **shard)
    assert wait_until_preloaded(client, name) == divided
    read = weight_reads(comfy)
    run(client, name, 305, **shard)  # or ComfyUI takes the latent from its cache
    assert relative_error(run(client, name, 304, **shard)[0], expected) <= TOLERANCE
    assert weight_reads(comfy) == read


def test_comfyui_sees_preloaded_weights_and_unloads_them(client, models):
    name = models.flux(256, 1, 2)
    unload(client)
    preload(client, name)
    sizes = [rank[name] for rank in wait_until_preloaded(client, name)]
    graph = Graph()
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    seen = graph.add("LoadedModels", samples=latent)
    listed = client.run(graph.prompt).outputs[seen.id]["loaded"]
    assert [entry[1:] for entry in listed if entry[0] == "XDiTRanks"] == [["cpu", sum(sizes)]]
    unload(client)
    assert run(client, name, 311)[0].isfinite().all()


def test_preloaded_beside_the_last_prompt_s_model_which_a_switch_then_forgets(client, models):
    first, second = models.flux(), models.flux(256, 1, 2)
    run(client, first, 321, preload=False)
    preload(client, second)
    wait_until_preloaded(client, first, second)
    run(client, second, 322)
    wait_until_preloaded(client, second)


def test_of_two_models_of_one_prompt_none_is_read_in_vain(client, comfy, models):
    """The first sampler may come while the second model is read: that stops, and begins anew."""
    names = [models.flux(256, 1, 1, seed=331), models.flux(256, 1, 2, seed=331)]
    run(client, models.flux(), 331, preload=False)
    read = weight_reads(comfy)
    graph = Graph()
    loaded = [load(graph, name) for name in names]
    latent = sample(graph, loaded[0], 332)
    graph.save(graph.sample("KSampler", loaded[1], graph.flux_conditioning(1), latent, seed=1, steps=1))
    client.run(graph.prompt)
    wait_until_preloaded(client, *names)
    reads = weight_reads(comfy)[len(read) :]
    assert set(reads) == set(names) and reads.count(names[0]) == 1 and reads.count(names[1]) <= 2


def test_what_does_not_fit_is_left_to_the_sampler(client, comfy, models):
    name = models.flux()
    run(client, name, 341, preload=False)
    before, start = held(client), comfy.log.stat().st_size
    blocks = int(0.6 * psutil.virtual_memory().total / SINGLE_BLOCK)  # one process may map them, two cannot hold them
    large = models.sparse_flux(3072, 1, blocks)
    preload(client, large)
    wait_until(lambda: answered_status(client)["state"] == "idle")
    (line,) = (line for line in comfy.log_since(start).splitlines() if large in line)
    assert f"{large} is not preloaded: " in line and " GiB of weights do not fit in " in line
    assert held(client) == before
