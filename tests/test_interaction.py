"""Sampling on two ranks as a person sees it: previews, progress, Cancel, errors, a second queue."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import rank_pids, weight_reads
from support.sampled import latent_by_ranks

DEVICES = "cpu:2"


def sampling(name, seed=7, steps=4, size=(128, 96), conditioning=None, loader="XDiTLoader", **inputs):
    graph = Graph()
    extra = {"parallel_config": graph.parallel_config(DEVICES)} if loader == "XDiTLoader" else {}
    model = graph.add(loader, unet_name=name, weight_dtype="default", **extra)
    latent = graph.add("EmptySD3LatentImage", width=size[0], height=size[1], batch_size=1)
    positive = graph.add("RandomConditioning", **conditioning) if conditioning else graph.flux_conditioning(1)
    sampled = graph.sample("KSampler", model, positive, latent, seed=seed, steps=steps, **inputs)
    return graph, sampled, graph.save(sampled)


def latent_of(client, name, **options):
    graph, _, saved = sampling(name, **options)
    return client.latent(client.run(graph.prompt), saved.id)


def assert_as_stock(comfy, client, name, **options):
    expected = latent_of(client, name, loader="UNETLoader", **options)
    graph, sampled, saved = sampling(name, **options)
    found, _ = latent_by_ranks(comfy, client, graph.prompt, sampled.id, saved.id)
    assert relative_error(found, expected) <= TOLERANCE


def test_previews_progress_and_node_timing(client, models):
    graph, sampled, _ = sampling(models.flux(), seed=21, steps=5)
    result = client.run(graph.prompt)
    assert result.progress(sampled.id) == [(step, 5) for step in range(1, 6)]
    assert [preview.node for preview in result.previews] == [sampled.id] * 5
    assert all(preview.image[:2] == b"\xff\xd8" for preview in result.previews)
    assert len({preview.image for preview in result.previews}) == 5
    seconds = result.node_seconds()
    assert seconds[sampled.id] > max(took for node, took in seconds.items() if node != sampled.id) / 100
    last = result.of_type("progress")[-1].time
    ended = result.events[-1].time
    assert last <= ended


def test_previews_are_stock_comfyui_s(client, models):
    images = []
    for loader in ("UNETLoader", "XDiTLoader"):
        graph, _, _ = sampling(models.flux(), seed=22, loader=loader)
        images.append([preview.image for preview in client.run(graph.prompt).previews])
    assert len(images[0]) == 4
    assert sum(a == b for a, b in zip(*images, strict=True)) >= 3  # a colour may be rounded the other way


def test_cancel_at_step_3_of_20_then_a_good_run(client, comfy, models):
    name = models.flux()
    latent_of(client, name)
    pids = rank_pids(comfy)
    assert len(pids) == 2
    read = weight_reads(comfy)
    graph, _, _ = sampling(name, seed=31, steps=20, size=(512, 512))
    prompt_id = client.queue(graph.prompt)
    client.wait_for_step(prompt_id, 3)
    client.interrupt(prompt_id)
    result = client.wait(prompt_id, timeout=30)
    assert result.interrupted and result.error is None
    assert max(step for step, _ in result.progress()) < 10
    assert_as_stock(comfy, client, name, seed=32)
    assert rank_pids(comfy) == pids
    assert weight_reads(comfy) == read


@pytest.mark.parametrize("size", [(64, 64), (512, 512)])
def test_after_cancel_the_ranks_do_not_finish_the_cancelled_run(client, models, size):
    """Fast steps: the progress bar sees Cancel first. Slow ones: the wait for the next step does."""
    name = models.flux()
    latent_of(client, name)
    graph, _, _ = sampling(name, seed=33, steps=5000, size=size)
    prompt_id = client.queue(graph.prompt)
    client.wait_for_step(prompt_id, 3)
    client.interrupt(prompt_id)
    client.wait(prompt_id, timeout=30)
    graph, _, _ = sampling(name, seed=34)
    client.run(graph.prompt, timeout=20)


def test_another_seed_reads_and_loads_nothing_again(client, comfy, models):
    name = models.flux()
    first = latent_of(client, name, seed=41)
    pids, read = rank_pids(comfy), weight_reads(comfy)
    graph, sampled, saved = sampling(name, seed=42)
    result = client.run(graph.prompt)
    assert relative_error(client.latent(result, saved.id), first) > 0.01
    assert sampled.id not in result.cached and len(result.cached) == len(graph.prompt) - 2
    assert rank_pids(comfy) == pids and weight_reads(comfy) == read


def test_a_model_file_overwritten_between_prompts(client, models):
    name = models.flux(hidden=256, double=1, single=1, seed=51)
    path = models.models / "diffusion_models" / name
    old = latent_of(client, name)
    changed = {key: value.clone() for key, value in load_file(path).items()}
    changed["final_layer.linear.weight"] *= 1.5
    save_file(changed, path)
    new = latent_of(client, name, seed=8)  # the loader node is cached, as its inputs are the same
    client.free()
    expected = latent_of(client, name, seed=8, loader="UNETLoader")
    assert relative_error(new, expected) <= TOLERANCE
    assert relative_error(latent_of(client, name), old) > 0.01


def test_a_model_file_overwritten_in_place_under_a_lora(client, models):
    """The ranks view the file's pages; taking the LoRA off again must not mix old and new weights."""
    name = models.flux(seed=52)
    path = models.models / "diffusion_models" / name

    def with_lora(strength, loader="XDiTLoader"):
        graph = Graph()
        extra = {"parallel_config": graph.parallel_config(DEVICES)} if loader == "XDiTLoader" else {}
        model = graph.add(loader, unet_name=name, weight_dtype="default", **extra)
        model = graph.add("LoraLoaderModelOnly", model=model, lora_name=models.flux_lora(), strength_model=strength)
        latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
        saved = graph.save(graph.sample("KSampler", model, graph.flux_conditioning(1), latent))
        return client.latent(client.run(graph.prompt), saved.id)

    with_lora(1.0)
    changed = {key: value * 1.1 if "_blocks." in key else value.clone() for key, value in load_file(path).items()}
    replacement = path.with_suffix(".new")
    save_file(changed, replacement)
    path.write_bytes(replacement.read_bytes())
    replacement.unlink()
    new = with_lora(0.5)
    client.free()
    assert relative_error(new, with_lora(0.5, "UNETLoader")) <= TOLERANCE


def test_a_model_file_replaced_by_another_shape(client, comfy, models):
    """More blocks than the MODEL that the cached loader node holds."""
    name = models.flux(hidden=256, double=1, single=1, seed=53)
    latent_of(client, name)
    path = models.models / "diffusion_models" / name
    save_file(load_file(models.models / "diffusion_models" / models.flux(hidden=512, double=2, single=2)), path)
    new = latent_of(client, name, seed=9)
    assert relative_error(new, latent_of(client, models.flux(512, 2, 2), seed=9, loader="UNETLoader")) <= TOLERANCE
    assert len(rank_pids(comfy)) == 2


def test_a_wrong_conditioning_width_is_the_node_s_error_and_the_group_lives(client, comfy, models):
    name = models.flux()
    latent_of(client, name)
    pids = rank_pids(comfy)
    wrong = {"seed": 1, "tokens": 16, "context_dim": 96, "pooled_dim": 64, "guidance": 3.5}
    graph, sampled, _ = sampling(name, conditioning=wrong)
    with pytest.raises(PromptFailed) as failed:
        client.run(graph.prompt)
    error = failed.value.result.error
    assert error.node == sampled.id and error.node_type == "KSampler"
    assert "sampling failed on rank" in error.message and "96" in error.message
    assert_as_stock(comfy, client, name, seed=61)
    assert rank_pids(comfy) == pids and len(pids) == 2


def test_two_errors_in_a_row_leave_the_group_in_order(client, comfy, models):
    name = models.flux()
    latent_of(client, name)
    pids = rank_pids(comfy)
    wrong = {"seed": 1, "tokens": 16, "context_dim": 128, "pooled_dim": 32, "guidance": 3.5}
    for _ in range(2):
        graph, _, _ = sampling(name, conditioning=wrong)
        with pytest.raises(PromptFailed):
            client.run(graph.prompt)
    assert_as_stock(comfy, client, name, seed=62)
    assert rank_pids(comfy) == pids


def test_a_truncated_file_is_refused_with_its_name(client, models):
    name = "truncated.safetensors"
    whole = (models.models / "diffusion_models" / models.flux()).read_bytes()
    (models.models / "diffusion_models" / name).write_bytes(whole[: len(whole) // 2])
    graph, _, _ = sampling(name)
    with pytest.raises(PromptFailed) as failed:
        client.run(graph.prompt)
    assert failed.value.result.error.node_type == "XDiTLoader"
    assert name in failed.value.result.error.message
    assert torch.isfinite(latent_of(client, models.flux(), seed=63)).all()
