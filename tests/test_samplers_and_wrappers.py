"""Samplers, guiders and wrappers through the real server on two ranks, down each rung of the ladder."""

import pytest
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE, both, flux_loaders
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import rank_pids, weight_reads

DEVICES = "cpu:2"


def empty(graph, size=(128, 96)):
    return graph.add("EmptySD3LatentImage", width=size[0], height=size[1], batch_size=1)


def custom(graph, model, sampler=None, guider=None, steps=4, node="SamplerCustomAdvanced"):
    """SamplerCustomAdvanced with the given sampler and guider nodes, else Euler and a basic guider."""
    return graph.add(
        node,
        noise=graph.add("RandomNoise", noise_seed=7),
        guider=guider or graph.add("BasicGuider", model=model, conditioning=graph.flux_conditioning(1)),
        sampler=sampler or graph.add("KSamplerSelect", sampler_name="euler"),
        sigmas=graph.add("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=1.0),
        latent_image=empty(graph),
    )


def with_negative(graph, model, sampler="KSampler", cfg=3.0, **inputs):
    """Positive and negative prompts of different length."""
    negative = graph.flux_conditioning(2, 33)
    return graph.sample(sampler, model, graph.flux_conditioning(1), empty(graph), negative=negative, cfg=cfg, **inputs)


def agree(latents):
    stock, found = latents
    return relative_error(found, stock) <= TOLERANCE


class LogMark:
    """What the server writes into its log from here on."""

    def __init__(self, comfy):
        self._log = comfy.log
        self._start = comfy.log.stat().st_size

    def lines(self, wanted):
        with open(self._log, errors="replace") as file:
            file.seek(self._start)
            return [line for line in file.read().splitlines() if wanted in line]


REMOTE = "each model call goes to the ranks"


@pytest.mark.parametrize("node", ["ChurnSampler", "GlobalNoiseSampler", "SamplerDPMAdaptative"])
def test_samplers_that_draw_from_the_global_generator_or_choose_their_steps(client, comfy, models, node):
    options = {}
    if node == "SamplerDPMAdaptative":
        options = {"order": 3, "rtol": 0.05, "atol": 0.05, "h_init": 0.05, "pcoeff": 0.0, "icoeff": 1.0, "dcoeff": 0.0,
                   "accept_safety": 0.81, "eta": 0.0, "s_noise": 1.0}  # fmt: skip
    mark = LogMark(comfy)
    assert agree(both(client, models, lambda graph, model: custom(graph, model, graph.add(node, **options))))
    assert not mark.lines(REMOTE)


def test_the_global_generator_goes_on_as_in_stock_comfyui(client, models):
    """Two runs in one prompt: the second draws where the first one stopped."""
    latents = []
    for ours in (False, True):
        graph = Graph()
        model = flux_loaders(graph, models)[ours]
        first = custom(graph, model, graph.add("GlobalNoiseSampler"))
        second = graph.add(
            "SamplerCustomAdvanced",
            noise=graph.add("DisableNoise"),
            guider=graph.add("BasicGuider", model=model, conditioning=graph.flux_conditioning(1)),
            sampler=graph.add("GlobalNoiseSampler"),
            sigmas=graph.add("BasicScheduler", model=model, scheduler="simple", steps=4, denoise=0.5),
            latent_image=first,
        )
        saved = graph.save(second)
        latents.append(client.latent(client.run(graph.prompt), saved.id))
    assert agree(latents)


def test_a_guider_of_a_custom_node_pack(client, comfy, models):
    def build(graph, model):
        conditioning = graph.flux_conditioning(1)
        guider = graph.add("WeightedGuider", model=model, conditioning=conditioning, weight=0.9)
        return custom(graph, model, guider=guider)

    mark = LogMark(comfy)
    assert agree(both(client, models, build))
    assert not mark.lines(REMOTE)


def two_models(client, models, first, second, sampler=None, node="SamplerCustomAdvanced"):
    """One model for the positive prompt, another one, with a LoRA, for the negative; each by the loader named."""
    graph = Graph()
    config = graph.parallel_config(DEVICES)
    loaded = [
        graph.add(
            loader,
            unet_name=models.flux(seed=seed),
            weight_dtype="default",
            **({"parallel_config": config} if loader == "XDiTLoader" else {}),
        )
        for loader, seed in ((first, 0), (second, 1))
    ]
    negative = graph.add("LoraLoaderModelOnly", model=loaded[1], lora_name=models.flux_lora(), strength_model=1.0)
    guider = graph.add(
        "DualModelGuider",
        model=loaded[0],
        model_negative=negative,
        positive=graph.flux_conditioning(1),
        cfg=2.5,
        negative=graph.flux_conditioning(2, 33),
    )
    saved = graph.save(custom(graph, loaded[0], sampler and graph.add(sampler), guider, node=node))
    return client.latent(client.run(graph.prompt), saved.id)


STOCK, OURS = "UNETLoader", "XDiTLoader"


def test_a_guider_with_a_second_model(client, models):
    stock = two_models(client, models, STOCK, STOCK)
    assert agree((stock, two_models(client, models, OURS, OURS)))
    assert agree((stock, two_models(client, models, OURS, STOCK)))
    assert agree((stock, two_models(client, models, STOCK, OURS, node="XDiTSamplerAdvanced")))


@pytest.mark.parametrize(("first", "sampler"), [(STOCK, None), (OURS, "LockedSampler")])
def test_a_weightless_second_model_that_would_run_in_comfyui_is_refused(client, models, first, sampler):
    with pytest.raises(PromptFailed) as failed:
        two_models(client, models, first, OURS, sampler)
    error = failed.value.result.error
    assert error.node_type == "SamplerCustomAdvanced"
    assert "has no weights in ComfyUI's process" in error.message


def test_a_sampler_with_a_lock_stays_in_comfyui_and_is_named(client, comfy, models):
    mark = LogMark(comfy)
    assert agree(both(client, models, lambda graph, model: custom(graph, model, graph.add("LockedSampler"))))
    (line,) = mark.lines(REMOTE)
    assert "lock" in line and "sample_with_global_noise of" in line and "ladder" in line


def test_a_function_wrapper_with_a_lock_stays_in_comfyui_and_is_named(client, comfy, models):
    mark = LogMark(comfy)

    def build(graph, model):
        lora = graph.add("LoraLoaderModelOnly", model=model, lora_name=models.flux_lora(), strength_model=1.0)
        wrapped = graph.add("LockedFunctionWrapper", model=lora)
        return with_negative(graph, wrapped)

    assert agree(both(client, models, build))
    (line,) = mark.lines(REMOTE)
    assert "LockedWrapper" in line and "ladder" in line


def test_a_patch_inside_the_model_that_cannot_be_sent_is_refused_by_name(client, comfy, models):
    graph = Graph()
    model = graph.add("LockedBlockPatch", model=flux_loaders(graph, models)[1])
    graph.save(custom(graph, model))
    with pytest.raises(PromptFailed) as failed:
        client.run(graph.prompt)
    error = failed.value.result.error
    assert error.node_type == "SamplerCustomAdvanced"
    assert "LockedPatch" in error.message and "ladder" in error.message
    pids = rank_pids(comfy)
    assert agree(both(client, models, custom))
    assert rank_pids(comfy) == pids and len(pids) == 2


def test_cancelling_a_remote_forward_leaves_the_group_in_order(client, comfy, models):
    graph = Graph()
    model = flux_loaders(graph, models)[1]
    graph.save(custom(graph, model, graph.add("LockedSampler"), steps=200))
    prompt_id = client.queue(graph.prompt)
    client.wait_for_step(prompt_id, 3)
    pids = rank_pids(comfy)
    client.interrupt(prompt_id)
    result = client.wait(prompt_id, timeout=30)
    assert result.interrupted and result.error is None
    assert agree(both(client, models, lambda graph, model: custom(graph, model, graph.add("LockedSampler"))))
    assert rank_pids(comfy) == pids


def cached(graph, model, node="EasyCache"):
    return graph.add(node, model=model, reuse_threshold=0.6, start_percent=0.1, end_percent=0.95, verbose=True)


@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_step_caches_before_and_after_the_conversion(client, comfy, models, node):
    graph = Graph()
    stock, ours = flux_loaders(graph, models)
    config = graph.parallel_config(DEVICES)
    options = {"steps": 8}
    conditioning = graph.flux_conditioning(1)
    runs = [
        ("KSampler", cached(graph, stock, node), {}),
        ("XDiTSampler", cached(graph, stock, node), {"parallel_config": config}),
        ("KSampler", cached(graph, ours, node), {}),
        ("KSampler", stock, {}),
    ]
    saved = [
        graph.save(graph.sample(sampler, model, conditioning, empty(graph), **options, **extra))
        for sampler, model, extra in runs
    ]
    result = client.run(graph.prompt)
    expected, before, after, uncached = (client.latent(result, node.id) for node in saved)
    assert relative_error(expected, uncached) > 1e-3, "nothing was skipped"
    assert relative_error(before, expected) <= TOLERANCE
    assert relative_error(after, expected) <= TOLERANCE


@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_step_caches_with_a_negative_prompt(client, models, node):
    def build(graph, model):
        return with_negative(graph, cached(graph, model, node), steps=8)

    assert agree(both(client, models, build, cfg=2))
    assert agree(both(client, models, build, cfg=2, weights="shard"))
    assert agree(both(client, models, build, ulysses=2))


@pytest.mark.parametrize("degrees", [{}, {"cfg": 2}, {"ulysses": 2}])
def test_a_negative_prompt(client, models, degrees):
    assert agree(both(client, models, with_negative, **degrees))


def test_cfg_zero_star_and_rescale_on_cfg_parallel(client, models):
    def build(graph, model):
        model = graph.add("RescaleCFG", model=model, multiplier=0.7)
        return with_negative(graph, graph.add("CFGZeroStar", model=model))

    assert agree(both(client, models, build, cfg=2))


def test_three_conditions_on_cfg_parallel(client, models):
    def build(graph, model):
        first, second, negative = (graph.flux_conditioning(seed, tokens) for seed, tokens in ((1, 16), (2, 33), (3, 8)))
        guider = graph.add("DualCFGGuider", model=model, cond1=first, cond2=second, negative=negative, cfg_conds=2.5,
                           cfg_cond2_negative=3.0, style="regular")  # fmt: skip
        return custom(graph, model, guider=guider)

    assert agree(both(client, models, build, cfg=2))
    assert agree(both(client, models, build, cfg=2, weights="shard"))


def test_cfg_and_ulysses_alternate_without_a_restart(client, comfy, models):
    seen, pids = [], set()
    for turn in range(10):
        graph = Graph()
        degrees = {"cfg": 2} if turn % 2 else {"ulysses": 2}
        model = flux_loaders(graph, models, flux=(256, 1, 1, True, 17), **degrees)[1]
        saved = graph.save(with_negative(graph, model, steps=2))
        seen.append(client.latent(client.run(graph.prompt), saved.id))
        pids.add(frozenset(rank_pids(comfy)))
    stock = both(client, models, lambda graph, model: with_negative(graph, model, steps=2), flux=(256, 1, 1, True, 17))[
        0
    ]
    assert all(relative_error(latent, stock) <= TOLERANCE for latent in seen)
    assert len(pids) == 1 and len(next(iter(pids))) == 2
    for rank in (0, 1):
        assert weight_reads(comfy, rank).count(models.flux(256, 1, 1, True, 17)) == 1  # this test alone has this one
