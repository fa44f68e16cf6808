"""What nodes change in ComfyUI's process beside the MODEL's patcher: brought to the ranks, or refused by name."""

import itertools

import pytest
from comfy_host import PACK_ROOT
from comfy_host.instance import ComfyInstance, make_base_directory
from support.comfy_client import ComfyClient, PromptFailed
from support.compare import TOLERANCE, flux_loaders
from support.parity import relative_error
from support.prompts import Graph
from support.tiny_models import ModelShelf

SUPPORT = PACK_ROOT / "tests" / "support"
PACKS = {
    "xdit-test-nodes": SUPPORT / "host_nodes",
    "xdit-test-foreign": SUPPORT / "foreign_nodes",
    "xdit-test-importing": SUPPORT / "importing_pack",
}
seeds = itertools.count(100)


@pytest.fixture(scope="module")
def changed_comfy(host, tmp_path_factory):
    """A server of this module's own: its process is changed."""
    base = make_base_directory(tmp_path_factory.mktemp("changed-comfyui"), PACKS)
    environment = {"OMP_NUM_THREADS": "1", "XDIT_CACHE": str(base / "cache")}
    with ComfyInstance(host, base, ["--cpu", "--force-fp32"], environment) as instance:
        yield instance


@pytest.fixture
def own_client(changed_comfy):
    with ComfyClient(changed_comfy.url, changed_comfy.base / "output") as session:
        yield session


@pytest.fixture(scope="module")
def own_models(changed_comfy):
    return ModelShelf(changed_comfy.base / "models")


@pytest.fixture(autouse=True)
def undone(own_client, own_models):
    """Each test begins with ComfyUI's own functions."""
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=own_models.flux(), weight_dtype="default")
    model = graph.add("ForeignReplacesNothing", model=graph.add("ForeignGlobalCleanup", model=model))
    model = graph.add("PackFactor", model=model, factor=1.0, replace=False)
    graph.add("PreviewAny", source=model)
    own_client.run(graph.prompt)


def sample(graph, model, node="KSampler", **inputs):
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    negative = graph.flux_conditioning(2, 33)
    return graph.sample(node, model, graph.flux_conditioning(1), latent, negative=negative, cfg=2.0, **inputs)


def latents(client, models, change, flux=(256, 1, 2), **config):
    """By stock ComfyUI, by the loader's MODEL and by stock's MODEL in the ranks: one seed, nothing from the cache."""
    graph, seed = Graph(), next(seeds)
    stock, ours = (change(graph, model) for model in flux_loaders(graph, models, flux=flux, **config))
    parallel = graph.parallel_config("cpu:2", **config)
    saved = [
        graph.save(sample(graph, stock, seed=seed)),
        graph.save(sample(graph, ours, seed=seed)),
        graph.save(sample(graph, stock, "XDiTSampler", seed=seed, parallel_config=parallel)),
    ]
    result = client.run(graph.prompt)
    assert not {node.id for node in saved} & set(result.cached)
    return [client.latent(result, node.id) for node in saved]


def assert_right(found):
    stock, *ours = found
    errors = [relative_error(one, stock) for one in ours]
    assert max(errors) <= TOLERANCE, errors


def plain(graph, model):
    return model


def replaces(where, factor=0.7):
    return lambda graph, model: graph.add("ForeignReplaces", model=model, where=where, factor=factor)


def log_since(comfy, start):
    return comfy.log.read_text(errors="replace")[start:]


def mark(comfy):
    return len(comfy.log.read_text(errors="replace"))


@pytest.mark.parametrize("degrees", [{}, {"ulysses": 2}, {"cfg": 2}])
def test_a_function_of_comfyui_replaced_by_another(own_client, own_models, changed_comfy, degrees):
    start = mark(changed_comfy)
    found = latents(own_client, own_models, lambda g, m: g.add("ForeignGlobalFunction", model=m, factor=0.6), **degrees)
    assert_right(found)
    text = log_since(changed_comfy, start)
    assert "'xdit-test-foreign' replaced comfy.ldm.flux" in text and "1 of 2" not in text
    after = latents(own_client, own_models, lambda g, m: g.add("ForeignGlobalCleanup", model=m), **degrees)
    assert_right(after)
    assert relative_error(after[0], found[0]) > 1e-3


@pytest.mark.parametrize("where", ["a method of the model", "a function of the sampler"])
def test_what_else_is_replaced_and_a_prompt_after_it(own_client, own_models, changed_comfy, where):
    found = [latents(own_client, own_models, replaces(where, factor)) for factor in (0.7, 0.5)]
    for one in found:
        assert_right(one)
    start = mark(changed_comfy)
    found.append(latents(own_client, own_models, lambda g, m: g.add("ForeignReplacesNothing", model=m)))
    assert_right(found[-1])
    assert "replaced" not in log_since(changed_comfy, start)


def test_a_replaced_function_of_the_sampler_does_not_keep_tokens_from_being_divided(
    own_client, own_models, changed_comfy
):
    start = mark(changed_comfy)
    assert_right(latents(own_client, own_models, replaces("a function of the sampler"), ulysses=2))
    text = log_since(changed_comfy, start)
    assert "ulysses 2" in text and "replaced" not in text


def test_a_pack_that_replaces_at_import(own_client, own_models):
    """The replaced function reads a module of its pack; another one, which no Flux reaches, could not be sent."""
    for factor, replace in ((0.5, True), (0.8, True), (0.8, False)):
        assert_right(
            latents(
                own_client,
                own_models,
                lambda g, m, f=factor, r=replace: g.add("PackFactor", model=m, factor=f, replace=r),
                ulysses=2,
            )
        )
    assert_right(latents(own_client, own_models, plain))


def test_what_cannot_travel_is_refused_by_the_name_of_its_pack(own_client, own_models):
    with pytest.raises(PromptFailed) as failed:
        latents(own_client, own_models, replaces("with a lock, in the model"))
    message = failed.value.result.error.message
    assert "'xdit-test-foreign'" in message and "comfy.ldm.flux.layers.attention" in message
    assert "lock" in message and "restart ComfyUI" in message


def test_what_cannot_travel_but_belongs_to_the_sampler_stays_in_comfyui(own_client, own_models, changed_comfy):
    start = mark(changed_comfy)
    assert_right(latents(own_client, own_models, replaces("with a lock, in the sampler")))
    text = log_since(changed_comfy, start)
    assert "'xdit-test-foreign' replaced comfy.samplers.sampling_function" in text
    assert "each model call goes to the ranks" in text


def changes(what):
    return lambda graph, model: graph.add("ForeignChanges", model=model, what=what)


@pytest.mark.parametrize("degrees", [{}, {"ulysses": 2}, {"cfg": 2}])
@pytest.mark.parametrize(
    "what", ["forward", "forward that holds the one before", "hook", "hook before", "attribute", "class"]
)
def test_a_model_changed_in_place_is_followed(own_client, own_models, what, degrees):
    model = (256, 1, 2, True, next(seeds))
    found = latents(own_client, own_models, changes(what), flux=model, **degrees)
    assert_right(found)
    assert_right(latents(own_client, own_models, plain, flux=(256, 1, 2), **degrees))


def refusal(client, models, what, loader):
    graph, seed = Graph(), next(seeds)
    loaded = flux_loaders(graph, models, flux=(256, 2, 1, True, seed))[loader == "XDiTLoader"]
    parallel = {} if loader == "XDiTLoader" else {"parallel_config": graph.parallel_config("cpu:2")}
    sampler = "KSampler" if loader == "XDiTLoader" else "XDiTSampler"
    graph.save(sample(graph, changes(what)(graph, loaded), sampler, seed=seed, **parallel))
    with pytest.raises(PromptFailed) as failed:
        client.run(graph.prompt)
    return failed.value.result.error


@pytest.mark.parametrize("loader", ["UNETLoader", "XDiTLoader"])
@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("submodule", "diffusion_model.txt_in"),
        ("order of blocks", "diffusion_model.double_blocks"),
        ("bias", "diffusion_model.double_blocks.0.img_attn.qkv.bias"),
        ("new weight", "diffusion_model.img_in.weight"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_its_path(own_client, own_models, loader, what, named):
    error = refusal(own_client, own_models, what, loader)
    assert named in error.message and "load the model anew" in error.message, error.message
    assert_right(latents(own_client, own_models, plain))


def test_a_weight_scaled_in_place_is_refused_by_its_name(own_client, own_models):
    error = refusal(own_client, own_models, "weight", "UNETLoader")
    assert "diffusion_model.double_blocks.0.img_attn.qkv.weight" in error.message
    error = refusal(own_client, own_models, "weight", "XDiTLoader")
    assert error.node_type == "ForeignChanges" and "has no weights in ComfyUI's process" in error.message
    assert_right(latents(own_client, own_models, plain))


def test_a_pack_that_the_first_request_imports_replaces_nothing_that_comfyui_has_put_back(start_comfy):
    instance = start_comfy(packs=PACKS, OMP_NUM_THREADS="1")
    with ComfyClient(instance.url, instance.base / "output") as session:
        models = ModelShelf(instance.base / "models")
        assert_right(latents(session, models, lambda g, m: g.add("PackFactor", model=m, factor=0.5, replace=False)))
        assert_right(latents(session, models, lambda g, m: g.add("PackFactor", model=m, factor=0.5, replace=True)))
