"""An installation that lacks a package of which a prompt uses nothing starts its ranks and samples."""

from types import SimpleNamespace

import pytest
import torch
from comfy_host import PACK_ROOT
from comfy_host.instance import ComfyInstance, make_base_directory
from conftest import TEST_PACKS
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE, both
from support.parity import relative_error
from support.prompts import Graph
from support.tiny_models import ModelShelf
from xdit_comfyui.parallel_backend.contract.config import Degrees
from xdit_comfyui.parallel_backend.rank.run.mesh import Meshes
from xdit_comfyui.parallel_backend.sharding.attention import xfuser_adapter

WITHOUT = ("xfuser", "yunchang", "diffusers", "prometheus_client")


@pytest.fixture(scope="module")
def comfy(host, tmp_path_factory):
    base = make_base_directory(tmp_path_factory.mktemp("without.comfyui"), TEST_PACKS)
    environment = {
        "OMP_NUM_THREADS": "1",
        "XDIT_METRICS": "1",
        "XDIT_TEST_WITHOUT": ",".join(WITHOUT),
        "PYTHONPATH": str(PACK_ROOT / "tests" / "support" / "without_packages"),
    }
    with ComfyInstance(host, base, ["--cpu", "--force-fp32"], environment) as instance:
        yield instance


@pytest.fixture
def models(comfy):
    return ModelShelf(comfy.base / "models")


def sampled(graph, model):
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    return graph.sample_custom("SamplerCustomAdvanced", model, graph.flux_conditioning(1), latent)


@pytest.mark.parametrize("degrees", [{"ulysses": 2}, {"ring": 2}])
def test_ranks_start_and_sample(client, models, degrees):
    stock, found = both(client, models, sampled, **degrees)
    assert relative_error(found, stock) <= TOLERANCE


def test_what_asks_for_a_package_that_is_missing_says_how_to_install_it(comfy, client, models):
    graph = Graph()
    model = graph.add("XDiTDiffusersLoader", model_path=models.flux_diffusers(), weight_dtype="default")
    graph.save(sampled(graph, model))
    with pytest.raises(PromptFailed) as failed:
        client.run(graph.prompt)
    message = failed.value.result.error.message
    assert "diffusers" in message and "-m pip install diffusers" in message
    assert '-m pip install "prometheus-client>=0.20"' in comfy.log_since(0)


def test_a_ring_that_xfuser_would_run_is_told_to_run_without_it(monkeypatch, caplog):
    mesh = SimpleNamespace(degrees=Degrees(ring=2), sp=SimpleNamespace(direct=None))
    monkeypatch.setattr(xfuser_adapter.importlib.util, "find_spec", lambda name: name != "xfuser" or None)
    assert Meshes(torch.device("cuda")).usp(mesh) is None
    assert "without xfuser" in caplog.text
