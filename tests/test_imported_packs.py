"""Node packs of every build are imported in the ranks as ComfyUI imports them."""

from pathlib import Path

import pytest
from comfy_host import PACK_ROOT
from comfy_host.instance import ComfyInstance, make_base_directory
from conftest import TEST_PACKS
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE, both, flux_loaders
from support.parity import relative_error
from support.prompts import Graph
from support.tiny_models import ModelShelf
from xdit_comfyui.parallel_backend.rank.run.pack_imports import PackImportFailed, import_packs

SUPPORT = PACK_ROOT / "tests" / "support"
PACKS = SUPPORT / "import_packs"
REMOTE = "each model call goes to the ranks"


@pytest.fixture(scope="module")
def comfy(host, tmp_path_factory):
    """A ComfyUI with one pack of each build, one of them in a further folder of custom nodes."""
    packs = {entry.name: entry for entry in PACKS.iterdir() if entry.name != "__pycache__"}
    base = make_base_directory(tmp_path_factory.mktemp("packs.comfyui"), {**TEST_PACKS, **packs})
    extra = base / "further"
    extra.mkdir()
    (extra / "listed.safetensors").touch()
    paths = base / "paths.yaml"
    paths.write_text(f"tests:\n  custom_nodes: {SUPPORT / 'import_packs_elsewhere'}\n  xdit_test_extra: {extra}\n")
    flags = ["--cpu", "--force-fp32", "--extra-model-paths-config", str(paths)]
    with ComfyInstance(host, base, flags, {"OMP_NUM_THREADS": "1"}) as instance:
        yield instance


@pytest.fixture
def models(comfy):
    return ModelShelf(comfy.base / "models")


def sampled(graph, model, sampler):
    return graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=7),
        guider=graph.add("BasicGuider", model=model, conditioning=graph.flux_conditioning(1)),
        sampler=graph.add(sampler),
        sigmas=graph.add("BasicScheduler", model=model, scheduler="simple", steps=3, denoise=1.0),
        latent_image=graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1),
    )


def size(log: Path) -> int:
    return log.stat().st_size


@pytest.mark.parametrize(
    "node",
    ["FolderPackSampler", "OwnPathSampler", "SingleFileSampler", "ExtensionSampler", "ExtraFolderSampler"],
)
def test_a_sampler_of_a_pack_runs_in_the_ranks(comfy, client, models, node):
    start = size(comfy.log)
    stock, found = both(client, models, lambda graph, model: sampled(graph, model, node), ulysses=2)
    assert relative_error(found, stock) <= TOLERANCE
    assert REMOTE not in comfy.log_since(start)


def test_a_patch_of_a_pack_is_read_in_each_call_of_a_remote_forward(comfy, client, models):
    start = size(comfy.log)

    def build(graph, model):
        return sampled(graph, graph.add("FolderPackPatch", model=model), "LockedSampler")

    stock, found = both(client, models, build)
    assert relative_error(found, stock) <= TOLERANCE
    assert REMOTE in comfy.log_since(start)


def test_a_pack_that_cannot_be_imported_in_the_ranks_is_named_with_the_cause(comfy, client, models):
    start = size(comfy.log)
    stock, found = both(client, models, lambda graph, model: sampled(graph, model, "OnlyInComfyUISampler"))
    assert relative_error(found, stock) <= TOLERANCE
    (line,) = [line for line in comfy.log_since(start).splitlines() if REMOTE in line]
    assert "the node pack only_in_comfyui cannot be imported" in line and "there is no web server" in line


def test_what_a_loader_raises_in_the_ranks_is_an_error_of_loading(comfy, client, models):
    graph = Graph()
    start = size(comfy.log)
    model = graph.add("ServerBoundLoader", unet_name=models.flux())
    config = graph.parallel_config("cpu:2")
    empty = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    graph.save(graph.sample("XDiTSampler", model, graph.flux_conditioning(1), empty, parallel_config=config))
    with pytest.raises(PromptFailed) as failed:
        client.run(graph.prompt)
    message = failed.value.result.error.message
    assert "the model cannot be loaded in rank" in message
    assert "LookupError: this loader asks ComfyUI's server first" in message
    assert REMOTE not in comfy.log_since(start)


def test_a_stock_model_is_no_different(comfy, client, models):
    graph = Graph()
    stock, _ = flux_loaders(graph, models)
    saved = []
    for ours in (False, True):
        options = {"parallel_config": graph.parallel_config("cpu:2", ulysses=2)} if ours else {}
        node = sampled(graph, stock, "OwnPathSampler")
        graph.prompt[node.id]["class_type"] = "XDiTSamplerAdvanced" if ours else "SamplerCustomAdvanced"
        graph.prompt[node.id]["inputs"].update({name: list(link) for name, link in options.items()})
        saved.append(graph.save(node))
    result = client.run(graph.prompt)
    expected, found = (client.latent(result, node.id) for node in saved)
    assert relative_error(found, expected) <= TOLERANCE


def test_a_pack_that_is_no_python_file_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))  # restores sys.path afterwards
    file = tmp_path / "odd_pack.txt"
    file.touch()
    with pytest.raises(PackImportFailed, match="odd_pack.txt cannot be imported .* no file that Python imports"):
        import_packs({"odd_pack": str(file)})
