"""The stock nodes of the real server, with the tiny models: what every other server test stands on."""

import pytest
import torch
from support.comfy_client import PromptFailed, PromptRefused
from support.images import write_random_image
from support.prompts import Graph


def flux_graph(models, tokens=16, **inputs):
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.flux(), weight_dtype="default")
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    sampled = graph.sample("KSampler", model, graph.flux_conditioning(1, tokens), latent, **inputs)
    return graph, graph.save(sampled)


def test_flux_samples_to_a_finite_latent_of_order_one(client, models):
    graph, saved = flux_graph(models)
    result = client.run(graph.prompt)
    latent = client.latent(result, saved.id)
    assert latent.shape == (1, 16, 12, 16)
    assert latent.isfinite().all() and 0.1 < latent.std() < 10
    assert result.progress() == [(step, 4) for step in range(1, 5)]


def test_the_same_prompt_gives_the_same_latent_and_another_seed_another(client, models):
    latents = []
    for seed in (11, 12, 11):
        graph, saved = flux_graph(models, seed=seed)
        latents.append(client.latent(client.run(graph.prompt), saved.id))
    assert torch.equal(latents[0], latents[2])
    assert (latents[0] - latents[1]).norm() > 0.1 * latents[0].norm()


def test_text_tokens_and_guidance_reach_the_model(client, models):
    latents = []
    for tokens, guidance in ((16, 3.5), (33, 3.5), (16, 1.0)):
        graph = Graph()
        model = graph.add("UNETLoader", unet_name=models.flux(), weight_dtype="default")
        latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
        sampled = graph.sample("KSampler", model, graph.flux_conditioning(1, tokens, guidance), latent)
        saved = graph.save(sampled)
        latents.append(client.latent(client.run(graph.prompt), saved.id))
    assert not torch.allclose(latents[0], latents[1], rtol=1e-3)
    assert not torch.allclose(latents[0], latents[2], rtol=1e-3)


def test_sampler_custom_advanced_agrees_with_ksampler(client, models):
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.flux(512, 2, 2), weight_dtype="default")
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    positive = graph.flux_conditioning(1)
    one = graph.save(graph.sample("KSampler", model, positive, latent))
    other = graph.save(graph.sample_custom("SamplerCustomAdvanced", model, positive, latent))
    result = client.run(graph.prompt)
    torch.testing.assert_close(client.latent(result, one.id), client.latent(result, other.id))


def test_lora_and_controlnet_move_the_result(client, comfy, models):
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.flux(), weight_dtype="default")
    lora = graph.add("LoraLoaderModelOnly", model=model, lora_name=models.flux_lora(), strength_model=1.0)
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    positive = graph.flux_conditioning(1)
    image = graph.add("LoadImage", image=write_random_image(comfy.base / "input" / "hint.png", 128, 96))
    controlnet = graph.add("ControlNetLoader", control_net_name=models.flux_controlnet())
    controlled = graph.add(
        "ControlNetApplyAdvanced",
        positive=positive,
        negative=positive,
        control_net=controlnet,
        image=image,
        strength=0.7,
        start_percent=0.0,
        end_percent=1.0,
    )
    saved = [
        graph.save(graph.sample("KSampler", model, positive, latent)),
        graph.save(graph.sample("KSampler", lora, positive, latent)),
        graph.save(graph.sample("KSampler", model, controlled, latent, negative=controlled.out(1))),
    ]
    begin = len(comfy.log.read_text())
    result = client.run(graph.prompt)
    plain, with_lora, with_controlnet = (client.latent(result, node.id) for node in saved)
    for changed in (with_lora, with_controlnet):
        assert changed.isfinite().all() and changed.std() < 10
        assert 0.01 < (changed - plain).norm() / plain.norm() < 5
    assert "lora key not loaded" not in comfy.log.read_text()[begin:]


def test_sdxl_samples_with_cfg(client, models):
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.sdxl(), weight_dtype="default")
    latent = graph.add("EmptyLatentImage", width=128, height=64, batch_size=1)
    texts = [
        graph.add("RandomConditioning", seed=seed, tokens=77, context_dim=2048, pooled_dim=1280, guidance=-1.0)
        for seed in (1, 2)
    ]
    sampled = graph.sample("KSampler", model, texts[0], latent, negative=texts[1], cfg=5.0, scheduler="normal")
    saved = graph.save(sampled)
    result = client.run(graph.prompt)
    assert client.latent(result, saved.id).isfinite().all()


def test_previews_and_progress_arrive_with_each_step(client, models):
    graph, _ = flux_graph(models, seed=21, steps=3)
    result = client.run(graph.prompt)
    assert [value for value, _ in result.progress()] == [1, 2, 3]
    assert len(result.previews) == 3
    assert all(preview.image[:2] == b"\xff\xd8" for preview in result.previews)


def test_cancel_interrupts_and_the_next_prompt_runs(client, models):
    graph, _ = flux_graph(models, seed=31, steps=200)
    prompt_id = client.queue(graph.prompt)
    client.wait_for_step(prompt_id, 3)
    client.interrupt(prompt_id)
    result = client.wait(prompt_id, timeout=60)
    assert result.interrupted and result.error is None
    graph, _ = flux_graph(models, seed=32)
    assert client.run(graph.prompt).outputs


def test_a_refused_prompt_names_node_and_reason(client, models):
    graph, _ = flux_graph(models)
    graph.prompt["1"]["inputs"]["unet_name"] = "missing.safetensors"
    with pytest.raises(PromptRefused) as refused:
        client.validate(graph.prompt)
    assert "missing.safetensors" in refused.value.node_errors["1"][0]


def test_a_failing_node_is_reported_with_its_message(client, models):
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.flux(), weight_dtype="default")
    wrong = graph.add("RandomConditioning", seed=1, tokens=8, context_dim=99, pooled_dim=64, guidance=1.0)
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    graph.save(graph.sample("KSampler", model, wrong, latent))
    with pytest.raises(PromptFailed) as failed:
        client.run(graph.prompt)
    assert failed.value.result.error.node_type == "KSampler"


def test_free_makes_the_server_load_again(client, models):
    graph, _ = flux_graph(models, seed=41)
    client.run(graph.prompt)
    assert "1" in client.run(graph.prompt).cached
    client.free()
    assert "1" not in client.run(graph.prompt).cached
