"""Generated bad input through the real server: clear errors, ranks that live, and a good prompt after it is right."""

import itertools
import json
import shutil

import psutil
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as some
from support import bad_files
from support.bad_input import DEVICES, Site, assert_clear
from support.bad_nodes.objects import UNSENDABLE
from support.comfy_client import ComfyClient, PromptRefused
from support.prompts import Graph
from support.tiny_models import FLUX_CONTEXT, FLUX_POOLED
from xdit_comfyui.parallel_backend.contract.config import ConfigError, Degrees, ParallelConfig, parse_devices


def cases(number: int) -> settings:
    """So many examples, the same ones in each run; not shrunk, as each is a prompt."""
    return settings(
        phases=[Phase.generate],
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def site(comfy, models):
    """Two ranks that take all cases of this file; a good prompt at the end."""
    with ComfyClient(comfy.url, comfy.base / "output") as client:
        made = Site(comfy, client, models)
        yield made
        made.check()


degree = some.one_of(some.integers(1, 4), some.integers(-2, 100), some.integers())
device = some.one_of(
    some.sampled_from(["cpu:2", "cpu", "auto"]),
    some.sampled_from(["0", "0,0", "7", "cpu:0", "cpu:65", "cuda:0", "gpu", "0,,1", "-1", "²", "0;1", "all", "1-3"]),
    some.text(max_size=10),
)


def works(devices: str, degrees: dict[str, int]) -> bool:
    """Whether the two ranks can do it."""
    try:
        kind, indices = parse_devices(devices)
        config = ParallelConfig(devices, "manual", Degrees(**degrees))
    except ConfigError:
        return False
    return kind == "cpu" and len(indices) == config.degrees.ranks or kind == "auto" and config.degrees.ranks == 2


@cases(90)
@given(devices=device, degrees=some.fixed_dictionaries(dict.fromkeys(("ulysses", "ring", "cfg", "batch"), degree)))
def test_configurations_that_cannot_work(site, devices, degrees):
    assume(not works(devices, degrees))
    graph = Graph()
    config = graph.parallel_config(devices, **degrees)
    model = graph.add("XDiTLoader", unet_name=site.flux, weight_dtype="default", parallel_config=config)
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    graph.save(graph.sample("KSampler", model, graph.flux_conditioning(1), latent))
    with pytest.raises(PromptRefused) as refused:
        site.client.queue(graph.prompt)
    said = " ".join(refused.value.node_errors[config.id])
    assert any(way in said for way in ("must multiply to", "from 1 on", "cpu:2", "name each once", "possible:")), said
    site.case_done()


@cases(10)
@given(
    degrees=some.sampled_from([{"cfg": 2}, {"batch": 2}, {"ulysses": 3}, {"ulysses": 0}, {"ring": -1}, {"cfg": 64}]),
    linked=some.booleans(),
)
def test_degrees_that_only_the_sampler_or_a_link_shows(site, degrees, linked):
    ((axis, value),) = degrees.items()
    assume(linked or value == 2)

    def loader(graph):
        config = {axis: graph.add("PrimitiveInt", value=value)} if linked else degrees
        return site.ours(graph, **config)

    error = site.sampled(loader).error
    assert error is not None and error.type.endswith("ConfigError"), str(error)
    assert axis in error.message
    site.case_done()


@some.composite
def damage(draw):
    """A function (source, target) that writes a damaged copy."""
    return draw(
        some.one_of(
            some.floats(0, 0.9999).map(lambda share: lambda a, b: bad_files.truncated(a, b, share)),
            some.binary(max_size=40).map(lambda content: lambda a, b: bad_files.garbage(b, content)),
            some.tuples(some.floats(0, 1), some.binary(min_size=1, max_size=8)).map(
                lambda new: lambda a, b: bad_files.with_header_bytes(a, b, *new)
            ),
            some.integers(0, 2**64 - 1).map(lambda length: lambda a, b: bad_files.with_length(a, b, length)),
            some.sampled_from(HEADER_CHANGES).map(lambda change: lambda a, b: bad_files.with_header(a, b, change)),
        )
    )


def first(header: dict) -> dict:
    return header[next(name for name in sorted(header) if name != "__metadata__")]


HEADER_CHANGES = [
    lambda header: header.clear(),
    lambda header: first(header).update(dtype="F99"),
    lambda header: first(header).update(dtype="I32"),
    lambda header: first(header).update(shape=[1]),
    lambda header: first(header).update(shape=[-1]),
    lambda header: first(header).update(shape=[2**63, 2**63]),
    lambda header: first(header).update(data_offsets=[0, 2**62]),
    lambda header: first(header).update(data_offsets=[5, 1]),
    lambda header: first(header).pop("shape"),
    lambda header: header.update(__metadata__={"config": "{"}),
    lambda header: header.update(__metadata__=7),
]


numbers = itertools.count()


def sample_file(site, write, kind="diffusion_models"):
    """One case: a file that `write` makes, under a name that ComfyUI has not seen yet."""
    folder, good = site.folder(kind), site.good[kind]
    source, path = folder / good, folder / f"bad-{next(numbers)}.safetensors"
    write(source, path)
    try:
        logged = site.comfy.log.stat().st_size
        ours = site.sampled(lambda graph: site.ours(graph, path.name, kind))
        if ours.error is None and b"unet missing" in site.comfy.log.read_bytes()[logged:]:
            site.case_done()  # ComfyUI has said so, and computes on memory as it finds it: there is nothing to compare
        else:
            site.same_as_stock(name=path.name, kind=kind)
    finally:
        path.unlink()


@cases(70)
@given(damaged=damage())
def test_files_that_are_damaged(site, damaged):
    sample_file(site, damaged)


@cases(30)
@given(damaged=damage())
def test_checkpoints_that_are_damaged(site, damaged):
    sample_file(site, damaged, "checkpoints")


def nan_in(place):
    return lambda tensors: bad_files.with_nan(tensors, place)


def reshaped(place, shape):
    def change(tensors):
        tensors[sorted(tensors)[place % len(tensors)]] = torch.ones(shape)

    return change


def as_dtype(dtype):
    return lambda tensors: tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})


def renamed(prefix):
    def change(tensors):
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    return change


place = some.integers(0, 200)
shape = some.lists(some.integers(0, 40), max_size=3)
tensor_changes = some.one_of(
    place.map(nan_in),
    some.builds(reshaped, place, shape),
    some.sampled_from([torch.float64, torch.float16]).map(as_dtype),
    some.sampled_from(["x.", "model.model.", "first_stage_model.", "lora_unet_"]).map(renamed),
    some.just(lambda tensors: tensors.clear()),
)


@cases(30)
@given(change=tensor_changes)
def test_weights_that_are_wrong(site, change):
    sample_file(site, lambda source, path: bad_files.with_tensors(source, path, change))


@cases(25)
@given(change=tensor_changes)
def test_checkpoints_whose_weights_are_wrong(site, change):
    sample_file(site, lambda source, path: bad_files.with_tensors(source, path, change), "checkpoints")


def test_files_of_something_else(site):
    folder = site.folder("diffusion_models")
    models = site.models
    others = [
        site.folder("loras") / models.flux_lora(),
        site.folder("controlnet") / models.flux_controlnet(),
        site.folder("vae") / models.image_vae(),
    ]
    for other in others:
        path = folder / f"bad-{next(numbers)}.safetensors"
        path.symlink_to(other)
        site.same_as_stock(name=path.name, incomplete=True)
        path.unlink()
    site.same_as_stock(name=models.sd3())  # of another architecture than the conditioning
    site.same_as_stock(name=models.wan())
    for name, content in (("bad.pt", b"no pickle"), ("bad.ckpt", b""), ("bad.sft", b"\0" * 100)):
        (folder / name).write_bytes(content)
        error = site.sampled(lambda graph, name=name: site.ours(graph, name)).error
        assert "safetensors" in error.message
        site.case_done()
    with pytest.raises(PromptRefused, match="not in list|not-there"):
        site.sampled(lambda graph: site.ours(graph, "not-there.safetensors"))
    site.case_done()


def lora(name, strength):
    return lambda graph, model: graph.add("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength)


@cases(25)
@given(
    write=some.one_of(
        some.floats(0, 0.999).map(lambda share: lambda a, b: bad_files.truncated(a, b, share)),
        some.one_of(place.map(nan_in), some.builds(reshaped, place, shape)).map(
            lambda change: lambda a, b: bad_files.with_tensors(a, b, change)
        ),
    ),
    strength=some.sampled_from([1.0, -100.0, 0.0]),
)
def test_loras_that_are_damaged(site, write, strength):
    folder = site.folder("loras")
    path = folder / f"bad-{next(numbers)}.safetensors"
    write(folder / site.models.flux_lora(256, 1, 1), path)
    site.same_as_stock(patches=[lora(path.name, strength)])
    path.unlink()


@pytest.mark.parametrize("made_for", ["sd3_lora", "wan_lora", "sdxl_lora"])
def test_a_lora_of_another_model_changes_nothing(site, made_for):
    site.same_as_stock(patches=[lora(getattr(site.models, made_for)(), 1.0)])


def test_a_lora_of_a_larger_flux(site):
    site.same_as_stock(patches=[lora(site.models.flux_lora(512, 2, 2), 1.0)])


def any_latent(shape, fill):
    return lambda graph: graph.add("AnyLatent", shape=json.dumps(shape), fill=fill)


small = some.integers(0, 9)
latent_shapes = some.one_of(
    some.tuples(some.just(1), some.sampled_from([0, 1, 3, 4, 15, 17, 32, 128]), small, small),
    some.tuples(some.sampled_from([0, 1, 2, 3]), some.just(16), small, small),
    some.lists(some.integers(1, 4), min_size=5, max_size=7).map(lambda sizes: [1, 16, *sizes[2:]]),
)


@cases(30)
@given(shape=latent_shapes, fill=some.sampled_from(["random", "zeros", "nan"]))
def test_latents_of_any_shape(site, shape, fill):
    site.same_as_stock(latent=any_latent(shape, fill))


@pytest.mark.parametrize("shape", [[1, 16, 4097, 1], [1, 16, 1, 4097]], ids=str)
@pytest.mark.parametrize("fill", ["nan", "random"])
def test_latents_as_thin_as_a_thread(site, shape, fill):
    """Without previews: ComfyUI 0.30 ends when it has to show an image that its thumbnail rounds to no pixels."""
    site.same_as_stock(latent=any_latent(shape, fill), preview="none")


def assert_too_large(site, outcome):
    assert outcome.error is not None and outcome.error.type.endswith("OutOfMemory"), outcome
    assert "takes" in outcome.error.message and "Make the image smaller" in outcome.error.message
    assert "second try" not in outcome.error.message
    site.case_done()


@pytest.mark.parametrize("shape", [[1, 16, 125000, 125000], [10**9, 16, 8, 8], [1, 16, 10**7, 10**7]], ids=str)
@pytest.mark.parametrize("sampler", ["XDiTSampler", "XDiTSamplerAdvanced"])
def test_latents_that_no_memory_holds(site, sampler, shape):
    assert_too_large(site, site.sampled(site.ours, sampler=sampler, latent=any_latent(shape, "zeros")))


def test_a_latent_that_stock_samplers_prepare_and_no_memory_holds(site):
    """A quarter of this machine's memory, in a stock sampler whose noise takes none."""
    side = int((psutil.virtual_memory().total / 4 / 16 / 4) ** 0.5)
    outcome = site.sampled(site.ours, sampler="SamplerCustomAdvanced", latent=any_latent([1, 16, side, side], "zeros"))
    assert_too_large(site, outcome)


def conditioning(shape, pooled, empty=False, nan=False):
    pooled = pooled if pooled == "none" else json.dumps(pooled)
    return lambda graph: graph.add("AnyConditioning", shape=json.dumps(shape), pooled=pooled, empty=empty, nan=nan)


FINE, FINE_POOLED = [1, 16, FLUX_CONTEXT], [1, FLUX_POOLED]
conditionings = some.one_of(
    some.builds(
        conditioning,
        some.one_of(
            some.integers(0, 5).map(lambda tokens: [1, tokens, FLUX_CONTEXT]),
            some.tuples(some.integers(0, 2), some.integers(0, 3), some.sampled_from([0, 1, 127, 128, 129, 4096])),
            some.lists(some.integers(0, 3), max_size=4),
        ),
        some.just(FINE_POOLED),
        nan=some.booleans(),
    ),
    some.builds(
        conditioning,
        some.just(FINE),
        some.one_of(some.just("none"), some.lists(some.sampled_from([0, 1, 2, 63, 64, 65]), max_size=3)),
    ),
    some.just(conditioning(FINE, FINE_POOLED, empty=True)),
)


@cases(20)
@given(made=conditionings)
def test_conditioning_of_any_shape(site, made):
    site.same_as_stock(positive=made)


@cases(45)
@given(
    what=some.sampled_from(list(UNSENDABLE)),
    where=some.sampled_from(["block", "wrapper", "post_cfg", "option", "attachment", "weight"]),
)
def test_models_that_hold_what_cannot_be_sent(site, what, where):
    patch = lambda graph, model: graph.add("UnsendablePatch", model=model, what=what, where=where)  # noqa: E731
    outcome = site.same_as_stock(may_refuse=where in ("block", "option", "weight"), patches=[patch])
    if outcome.error is not None:
        said = outcome.error.message
        assert "cannot be" in said or "not in this process" in said, said


def test_diffusers_folders_that_are_damaged(site):
    name = site.models.flux_diffusers(256, 1, 1, shards=2)
    source = site.folder("diffusers") / name
    index = "transformer/diffusion_pytorch_model.safetensors.index.json"
    shard = "transformer/part-1-of-2.safetensors"

    def write(file, content):
        return lambda folder: (folder / file).write_bytes(content)

    breakages = [
        *(write(index, text) for text in (b"", b"{", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}')),
        write(index, b'{"weight_map": {"a": "elsewhere.safetensors"}}'),
        write(index, b"\xff\xfe"),
        lambda folder: (folder / index).unlink(),
        lambda folder: (folder / shard).unlink(),
        write(shard, b""),
        write(shard, b"not a file of weights"),
        lambda folder: bad_files.truncated(source / shard, folder / shard, 0.5),
        lambda folder: bad_files.with_tensors(source / shard, folder / shard, renamed("x.")),
        lambda folder: (folder / "transformer").rename(folder / "something"),
    ]
    for breakage in breakages:
        broken = site.folder("diffusers") / f"bad-{next(numbers)}"
        shutil.copytree(source, broken)
        breakage(broken)

        def loader(graph, broken=broken):
            config = graph.parallel_config(DEVICES)
            options = {"model_path": broken.name, "weight_dtype": "default"}
            return graph.add("XDiTDiffusersLoader", **options, parallel_config=config)

        error = site.sampled(loader).error
        assert error is not None
        assert_clear(error, None)
        site.case_done()
        shutil.rmtree(broken)
