"""What people attach to a MODEL, through the real server on two ranks: the same latent as stock ComfyUI."""

import pytest
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE, both
from support.images import write_random_image
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import rank_pids, weight_reads

DEVICES = "cpu:2"


def empty(graph, width=128, height=96):
    return graph.add("EmptySD3LatentImage", width=width, height=height, batch_size=1)


def plain(graph, model, sampler="KSampler", **inputs):
    return graph.sample(sampler, model, graph.flux_conditioning(1), empty(graph), **inputs)


def agree(latents):
    stock, found = latents
    return relative_error(found, stock) <= TOLERANCE


def with_lora(models, strength, seed=1):
    def build(graph, model):
        name = models.flux_lora(seed=seed)
        return plain(graph, graph.add("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength))

    return build


def test_lora_strength_changed_and_toggled_off(client, models):
    found = []
    for strength in (1.0, 0.5, 0.0, 1.0):
        latents = both(client, models, with_lora(models, strength))
        assert agree(latents), strength
        found.append(latents[1])
    latents = both(client, models, plain)
    assert agree(latents)
    assert relative_error(found[0], found[1]) > 0.01
    assert relative_error(found[2], latents[1]) <= TOLERANCE


def test_the_same_lora_loaded_again(client, models):
    assert agree(both(client, models, with_lora(models, 1.0)))
    client.free()
    assert agree(both(client, models, with_lora(models, 1.0)))


def test_two_loras_one_after_the_other(client, models):
    def build(graph, model):
        for seed, strength in ((1, 0.7), (5, -0.4)):
            name = models.flux_lora(seed=seed)
            model = graph.add("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength)
        return plain(graph, model)

    assert agree(both(client, models, build))


def test_hook_lora_on_half_of_the_steps(client, models):
    def build(graph, model):
        hooks = graph.add("CreateHookLoraModelOnly", lora_name=models.flux_lora(), strength_model=1.0)
        keyframe = graph.add("CreateHookKeyframe", strength_mult=0.0, start_percent=0.5)
        hooks = graph.add("SetHookKeyframes", hooks=hooks, hook_kf=keyframe)
        positive = graph.add("ConditioningSetProperties", cond_NEW=graph.flux_conditioning(1), strength=1.0,
                             set_cond_area="default", hooks=hooks)  # fmt: skip
        return graph.sample("KSampler", model, positive, empty(graph), negative=graph.flux_conditioning(1))

    assert agree(both(client, models, build))


def test_image_to_image_with_a_noise_mask(client, models):
    def build(graph, model):
        image = graph.add("RandomLatent", seed=3, width=128, height=96, channels=16, batch_size=1)
        mask = graph.add("SolidMask", value=0.6, width=128, height=96)
        masked = graph.add("SetLatentNoiseMask", samples=image, mask=mask)
        return graph.sample("KSampler", model, graph.flux_conditioning(1), masked, denoise=0.6)

    assert agree(both(client, models, build))


def test_controlnet(client, comfy, models):
    image = write_random_image(comfy.base / "input" / "features.png", 128, 96)

    def build(graph, model):
        positive = graph.flux_conditioning(1)
        controlled = graph.add(
            "ControlNetApplyAdvanced",
            positive=positive,
            negative=positive,
            control_net=graph.add("ControlNetLoader", control_net_name=models.flux_controlnet()),
            image=graph.add("LoadImage", image=image),
            strength=0.7,
            start_percent=0.0,
            end_percent=0.8,
        )
        return graph.sample("KSampler", model, controlled, empty(graph), negative=controlled.out(1))

    latents = both(client, models, build)
    assert agree(latents)
    assert relative_error(latents[1], both(client, models, plain)[1]) > 0.01


def test_model_sampling_flux_over_a_lora(client, models):
    def build(graph, model):
        model = graph.add("LoraLoaderModelOnly", model=model, lora_name=models.flux_lora(), strength_model=0.8)
        model = graph.add("ModelSamplingFlux", model=model, max_shift=1.8, base_shift=0.9, width=1024, height=768)
        return graph.sample_custom("SamplerCustomAdvanced", model, graph.flux_conditioning(1), empty(graph))

    assert agree(both(client, models, build))


def test_prompts_of_different_length_on_two_areas(client, models):
    def build(graph, model):
        left = graph.add("ConditioningSetArea", conditioning=graph.flux_conditioning(1, 16), width=64, height=96,
                         x=0, y=0, strength=1.0)  # fmt: skip
        both_sides = graph.add("ConditioningCombine", conditioning_1=left,
                               conditioning_2=graph.flux_conditioning(2, 33))  # fmt: skip
        return graph.sample("KSampler", model, both_sides, empty(graph))

    assert agree(both(client, models, build))


def test_reference_latent(client, models):
    def build(graph, model):
        reference = graph.add("RandomLatent", seed=9, width=72, height=88, channels=16, batch_size=1)
        positive = graph.add("ReferenceLatent", conditioning=graph.flux_conditioning(1), latent=reference)
        return graph.sample("KSampler", model, positive, empty(graph))

    assert agree(both(client, models, build))


@pytest.mark.parametrize("dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_fp8_weights(client, models, dtype):
    latents = both(client, models, plain, dtype=dtype)
    assert agree(latents)
    assert relative_error(latents[1], both(client, models, plain)[1]) > 1e-3


def test_fp8_weights_with_a_lora(client, models):
    assert agree(both(client, models, with_lora(models, 1.0), dtype="fp8_e4m3fn"))


def loaded_by(client, models, *loaders, sampler="XDiTSampler"):
    """The latents of stock UNETLoader → KSampler, and of each of `loaders` (graph, config → MODEL) → `sampler`."""
    graph = Graph()
    config = graph.parallel_config(DEVICES)
    stock = graph.add("UNETLoader", unet_name=models.flux(), weight_dtype="default")
    saved = [graph.save(plain(graph, stock))]
    for loader in loaders:
        saved.append(graph.save(plain(graph, loader(graph, config), sampler, parallel_config=config)))
    result = client.run(graph.prompt)
    return [client.latent(result, node.id) for node in saved]


def test_stock_models_turned_parallel(client, models):
    stock, unet, checkpoint = loaded_by(
        client,
        models,
        lambda graph, _: graph.add("UNETLoader", unet_name=models.flux(), weight_dtype="default"),
        lambda graph, _: graph.add("CheckpointLoaderSimple", ckpt_name=models.flux_checkpoint()),
    )
    assert relative_error(unet, stock) <= TOLERANCE
    assert relative_error(checkpoint, stock) <= TOLERANCE


def test_the_checkpoint_and_diffusers_loaders(client, models):
    single, sharded = models.flux_diffusers(), models.flux_diffusers(shards=3)
    stock, *found = loaded_by(
        client,
        models,
        lambda graph, config: graph.add(
            "XDiTCheckpointLoader", ckpt_name=models.flux_checkpoint(), parallel_config=config
        ),
        *(
            lambda graph, config, name=name: graph.add(
                "XDiTDiffusersLoader", model_path=name, weight_dtype="default", parallel_config=config
            )
            for name in (single, sharded)
        ),
    )
    assert [relative_error(latent, stock) <= TOLERANCE for latent in found] == [True, True, True]


def refused(client, graph):
    with pytest.raises(PromptFailed) as failed:
        client.run(graph.prompt)
    return failed.value.result.error


def test_a_model_without_a_recipe_is_refused_by_class(client, models):
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.flux(), weight_dtype="default")
    model = graph.add("ForgetRecipe", model=model)
    graph.save(plain(graph, model, "XDiTSampler", parallel_config=graph.parallel_config(DEVICES)))
    error = refused(client, graph)
    assert error.node_type == "XDiTSampler"
    assert "Flux" in error.message and "xDiT Loader" in error.message


@pytest.mark.parametrize("ours", ["model1", "model2"])
def test_merging_a_weightless_model_is_refused(client, models, ours):
    graph = Graph()
    options = {"unet_name": models.flux(), "weight_dtype": "default"}
    merged = {"model1": graph.add("UNETLoader", **options), "model2": graph.add("UNETLoader", **options)}
    merged[ours] = graph.add("XDiTLoader", **options, parallel_config=graph.parallel_config(DEVICES))
    graph.save(plain(graph, graph.add("ModelMergeSimple", **merged, ratio=0.5)))
    error = refused(client, graph)
    assert error.node_type == "ModelMergeSimple"
    assert "merge" in error.message and "stock loader" in error.message


def test_a_merge_of_stock_models_samples_in_the_ranks(client, models):
    graph = Graph()
    stock = [graph.add("UNETLoader", unet_name=models.flux(seed=seed), weight_dtype="default") for seed in (0, 1)]
    merged = graph.add("ModelMergeSimple", model1=stock[0], model2=stock[1], ratio=0.5)
    config = graph.parallel_config(DEVICES)
    saved = [
        graph.save(plain(graph, merged)),
        graph.save(plain(graph, merged, "XDiTSampler", parallel_config=config)),
    ]
    result = client.run(graph.prompt)
    assert agree([client.latent(result, node.id) for node in saved])


def test_two_models_in_one_graph_queued_again_with_another_seed(client, comfy, models):
    def queue(seed):
        graph = Graph()
        config = graph.parallel_config(DEVICES)
        saved = []
        for number in (11, 12):
            options = {"unet_name": models.flux(seed=number), "weight_dtype": "default"}
            for loader, sampler in (("UNETLoader", "KSampler"), ("XDiTLoader", "XDiTSampler")):
                extra = {"parallel_config": config} if loader == "XDiTLoader" else {}
                saved.append(graph.save(plain(graph, graph.add(loader, **options, **extra), sampler, seed=seed)))
        result = client.run(graph.prompt)
        return [client.latent(result, node.id) for node in saved]

    first = queue(7)
    pids = rank_pids(comfy)
    assert len(pids) == 2
    second = queue(8)
    assert agree(first[:2]) and agree(first[2:]) and agree(second[:2]) and agree(second[2:])
    assert relative_error(first[1], first[3]) > 0.01 < relative_error(first[1], second[1])
    assert rank_pids(comfy) == pids
    read = weight_reads(comfy)
    assert [read.count(models.flux(seed=number)) for number in (11, 12)] == [1, 1]
