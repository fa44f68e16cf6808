"""A model's file changes after it was loaded: its new weights or an error that says so, never a mixture."""

import itertools
import shutil

import pytest
from support import bad_files
from support.bad_input import Site, assert_same
from support.comfy_client import ComfyClient

numbers = itertools.count()
CHANGED = "host.model.file_identity.FilesChanged"


@pytest.fixture(scope="module")
def site(comfy, models):
    with ComfyClient(comfy.url, comfy.base / "output") as client:
        yield Site(comfy, client, models)


@pytest.fixture(params=["diffusion_models", "checkpoints"])
def kind(request):
    return request.param


@pytest.fixture
def file(site, kind):
    """A copy of a tiny Flux that only this test uses."""
    path = site.folder(kind) / f"changes-{next(numbers)}.safetensors"
    shutil.copy(site.folder(kind) / site.good[kind], path)
    yield path
    path.unlink(missing_ok=True)


def other(site, kind):
    """The file of a Flux with more blocks."""
    made = site.models.flux(256, 2, 1) if kind == "diffusion_models" else site.models.flux_checkpoint(256, 2, 1)
    return site.folder(kind) / made


def change(file, new=""):
    return lambda graph, model: graph.add("ChangeFile", model=model, path=str(file), new=str(new))


def sampled(site, kind, file, **inputs):
    outcome = site.sampled(lambda graph: site.ours(graph, file.name, kind), **inputs)
    site.case_done()
    return outcome


def assert_as(site, kind, file, same: str, seed: int):
    """What `file` gives now is what stock ComfyUI gives with the file named `same`."""
    stock = site.sampled(lambda graph: site.stock(graph, same, kind), seed=seed)
    assert_same(sampled(site, kind, file, seed=seed).latent, stock.latent)


def test_replaced_between_loader_and_sampler(site, kind, file):
    error = sampled(site, kind, file, patches=[change(file, other(site, kind))]).error
    assert error.type.endswith(CHANGED) and error.node_type == "KSampler"
    assert str(file) in error.message and "Queue the prompt again" in error.message
    assert_as(site, kind, file, other(site, kind).name, seed=7)


def test_deleted_between_loader_and_sampler(site, kind, file):
    error = sampled(site, kind, file, patches=[change(file)]).error
    assert error.type.endswith(CHANGED) and f"{file}, from which this MODEL was loaded, is gone" in error.message


def test_truncated_between_loader_and_sampler(site, kind, file, tmp_path):
    bad_files.truncated(file, tmp_path / "half", 0.00001)
    error = sampled(site, kind, file, patches=[change(file, tmp_path / "half")]).error
    assert error.type.endswith("UnreadableWeights") and str(file) in error.message


def test_replaced_between_two_prompts(site, kind, file):
    assert_as(site, kind, file, site.good[kind], seed=7)
    shutil.copy(other(site, kind), file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)
    assert_as(site, kind, file, other(site, kind).name, seed=8)


def test_overwritten_by_a_shorter_file_while_a_lora_is_on_its_weights(site, kind, file):
    """In place: what the ranks mapped of it ends before its weights do."""
    shutil.copy(other(site, kind), file)
    lora = site.models.flux_lora(256, 1, 1)
    patch = lambda graph, model: graph.add("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=1.0)  # noqa: E731
    assert sampled(site, kind, file, patches=[patch]).error is None
    file.write_bytes((site.folder(kind) / site.good[kind]).read_bytes())
    assert_as(site, kind, file, site.good[kind], seed=9)


def test_a_stock_loader_s_model_whose_file_is_replaced(site, kind, file):
    def through_our_sampler(seed):
        return site.sampled(lambda graph: site.stock(graph, file.name, kind), sampler="XDiTSampler", seed=seed)

    assert through_our_sampler(7).error is None
    shutil.copy(other(site, kind), file)
    error = through_our_sampler(8).error
    assert error.type.endswith(CHANGED) and "change one of its inputs" in error.message
    site.case_done()


def test_a_new_embedding_does_not_load_a_checkpoint_again(site):
    def loader(graph):
        return site.ours(graph, site.good["checkpoints"], "checkpoints")

    assert site.sampled(loader).error is None
    log = site.comfy.log.stat().st_size
    embedding = site.models.models / "embeddings" / "new.safetensors"
    embedding.parent.mkdir(exist_ok=True)
    embedding.write_bytes(b"not one")
    assert site.sampled(loader, seed=10).error is None
    embedding.unlink()
    assert b"model_type FLUX" not in site.comfy.log.read_bytes()[log:]
