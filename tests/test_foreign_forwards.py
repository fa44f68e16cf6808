"""Code of nodes in the place of the model's own, which looks at all tokens: stock's latent, or refused by name."""

import pytest
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE, flux_loaders
from support.parity import relative_error
from support.prompts import Graph
from support.tiny_models import WAN_CONTEXT

KINDS = pytest.mark.parametrize("ours", ["loader", "stock"])
DIVISIONS = [{"ulysses": 2}, {"ring": 2}, {"cfg": 2}, {"ulysses": 2, "weights": "shard"}]
COMPILED = {"ulysses": 2, "compile": "on"}


def flux(client, models, node, ours="loader", inputs=None, lora=False, **config):
    """The latents by stock ComfyUI and by two ranks, with the node on the MODEL."""
    graph = Graph()
    stock, loaded = flux_loaders(graph, models, **config)
    text = graph.flux_conditioning(1), graph.flux_conditioning(2, 33)
    empty = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    lora = models.flux_lora() if lora else None
    return run(client, graph, (stock, loaded), ours, node, inputs or {}, lora, empty, text, config)


def wan(client, models, node, ours="loader", inputs=None, lora=False, **config):
    graph = Graph()
    options = {"unet_name": models.wan(), "weight_dtype": "default"}
    stock = graph.add("UNETLoader", **options)
    loaded = graph.add("XDiTLoader", **options, parallel_config=graph.parallel_config("cpu:2", **config))
    text = [
        graph.add("RandomConditioning", seed=seed, tokens=17, context_dim=WAN_CONTEXT, pooled_dim=0, guidance=-1.0)
        for seed in (1, 2)
    ]
    empty = graph.add("EmptyHunyuanLatentVideo", width=128, height=96, length=5, batch_size=1)
    lora = models.wan_lora() if lora else None
    return run(client, graph, (stock, loaded), ours, node, inputs or {}, lora, empty, text, config)


def run(client, graph, loaders, ours, node, inputs, lora, empty, text, config):
    stock, loaded = loaders
    parallel = graph.parallel_config("cpu:2", **config)
    scale = 3.0 if config.get("cfg", 1) > 1 else 1.0
    saved = []
    for sampler, model in (("KSampler", stock), ("XDiTSampler", loaded if ours == "loader" else stock)):
        if lora is not None:
            model = graph.add("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=1.0)
        patched = graph.add(node, model=model, **inputs) if node else model
        extra = {"parallel_config": parallel} if sampler == "XDiTSampler" else {}
        latent = graph.sample(sampler, patched, text[0], empty, negative=text[1], cfg=scale, steps=3, **extra)
        saved.append(graph.save(latent))
    result = client.run(graph.prompt, timeout=400)  # compiling takes a while where others use the cores
    return [client.latent(result, one.id) for one in saved]


def error(latents):
    return relative_error(latents[1], latents[0])


def said_since(comfy, mark):
    with open(comfy.log, errors="replace") as file:
        file.seek(mark)
        return file.read()


@KINDS
@pytest.mark.parametrize("config", [*DIVISIONS, COMPILED], ids=str)
def test_a_forward_swapped_around_each_call(client, comfy, models, ours, config):
    mark = comfy.log.stat().st_size
    assert error(flux(client, models, "ForeignForwardSwap", ours, **config)) <= TOLERANCE
    said = said_since(comfy, mark)
    line = "halved_forward of xdit-test-foreign.models (the forward_orig of the diffusion model) may look at all tokens"
    assert ("cfg" in config) == (line not in said), said
    mark = comfy.log.stat().st_size
    assert error(flux(client, models, None, ours, **config)) <= TOLERANCE, "the next prompt"
    assert "may look at all tokens" not in said_since(comfy, mark)


@KINDS
@pytest.mark.parametrize("lora", [False, True])
def test_a_method_bound_to_each_cross_attention(client, models, ours, lora):
    inputs = {"where": "cross_attn", "tokens": "each by itself"}
    latents = wan(client, models, "ForeignBoundMethod", ours, inputs, lora, ulysses=2)
    assert error(latents) <= TOLERANCE


@KINDS
@pytest.mark.parametrize("config", [*DIVISIONS, {"pipefusion": 2, "warmup_steps": 3}, COMPILED], ids=str)
def test_a_method_bound_to_each_self_attention_that_needs_all_tokens(client, comfy, models, ours, config):
    mark = comfy.log.stat().st_size
    inputs = {"where": "self_attn", "tokens": "all together"}
    assert error(wan(client, models, "ForeignBoundMethod", ours, inputs, True, **config)) <= TOLERANCE
    if "cfg" not in config:
        assert "may look at all tokens in every block" in said_since(comfy, mark)
    assert error(wan(client, models, None, ours, **config)) <= TOLERANCE, "the next prompt"


@pytest.mark.parametrize("path", ["double_blocks.0", "double_blocks.1.img_mlp", "single_blocks.1", "final_layer"])
@pytest.mark.parametrize("how", ["object patch", "class", "module", "hook during the run", "swap during the run"])
def test_one_module(client, comfy, models, path, how):
    mark = comfy.log.stat().st_size
    ours = "stock" if path == "single_blocks.1" else "loader"
    config = {"ring": 2} if how == "object patch" else {"ulysses": 2}
    assert error(flux(client, models, "ForeignForward", ours, {"path": path, "how": how}, **config)) <= TOLERANCE
    assert "may look at all tokens" in said_since(comfy, mark)


@KINDS
def test_the_class_of_the_model_itself(client, comfy, models, ours):
    mark = comfy.log.stat().st_size
    inputs = {"path": "", "how": "class"}
    assert error(flux(client, models, "ForeignForward", ours, inputs, ulysses=2)) <= TOLERANCE
    assert "may look at all tokens" in said_since(comfy, mark)


@pytest.mark.parametrize("how", ["object patch", "hook during the run", "class"])
def test_one_module_compiled(client, comfy, models, how):
    inputs = {"path": "double_blocks.1.img_mlp", "how": how}
    mark = comfy.log.stat().st_size
    assert error(flux(client, models, "ForeignForward", "loader", inputs, ulysses=2, compile="on")) <= TOLERANCE
    assert "these are not compiled" in said_since(comfy, mark)
    assert error(flux(client, models, None, "loader", ulysses=2, compile="on")) <= TOLERANCE


def test_parts_of_a_block_asked_outside_of_it(client, models):
    for config in ({"ulysses": 2}, {"ulysses": 2, "weights": "shard"}, {"cfg": 2, "weights": "shard"}):
        assert error(flux(client, models, "ForeignPeek", **config)) <= TOLERANCE


def test_a_pipeline_runs_what_is_inside_a_block_and_refuses_what_is_around(client, comfy, models):
    inputs = {"path": "double_blocks.1.img_mlp", "how": "object patch"}
    mark = comfy.log.stat().st_size
    assert error(flux(client, models, "ForeignForward", "loader", inputs, pipefusion=2)) <= TOLERANCE
    assert "computes every step exactly" in said_since(comfy, mark)
    for node, inputs in (
        ("ForeignForwardSwap", {}),
        ("ForeignForward", {"path": "double_blocks.1", "how": "hook during the run"}),
        ("ForeignForward", {"path": "final_layer", "how": "object patch"}),
    ):
        with pytest.raises(PromptFailed, match=r"of xdit-test-foreign\.\w+ .*set pipefusion to 1"):
            flux(client, models, node, "loader", inputs, pipefusion=2)
    assert error(flux(client, models, None, pipefusion=2, warmup_steps=3)) <= TOLERANCE
