"""A ComfyUI whose model classes do not match the plans: the model runs without its plan, and a line says why."""

import dataclasses
import re
import shutil
from pathlib import Path

import comfy.ldm.flux.model
import comfy.ops
import pytest
from comfy_host import Host
from comfy_host.instance import ComfyInstance, make_base_directory
from conftest import TEST_PACKS
from support.comfy_client import ComfyClient, PromptFailed
from support.compare import TOLERANCE
from support.parity import relative_error
from support.prompts import Graph
from support.tiny_models import ModelShelf, flux_config
from xdit_comfyui.parallel_backend.host.strategy.choose import Workload
from xdit_comfyui.parallel_backend.sharding.plan.plan import Gather
from xdit_comfyui.parallel_backend.sharding.plan.plan_matching import mismatch
from xdit_comfyui.parallel_backend.sharding.plans import plan_for
from xdit_comfyui.parallel_backend.sharding.plans.flux import FLUX

WHY = "comfy.ldm.flux.model.Flux: single_blocks takes x, vec, rotary"


def tree_with_a_renamed_argument(tree: Path, copy: Path) -> Path:
    """ComfyUI in which the positions of Flux's single blocks are called `rotary`."""
    copy.mkdir()
    for entry in tree.iterdir():
        if entry.name != "comfy" and entry.suffix != ".py":
            (copy / entry.name).symlink_to(entry)
        elif entry.suffix == ".py":
            shutil.copy(entry, copy)
    shutil.copytree(tree / "comfy", copy / "comfy", ignore=shutil.ignore_patterns("__pycache__"))
    layers, model = copy / "comfy/ldm/flux/layers.py", copy / "comfy/ldm/flux/model.py"
    head, single, rest = layers.read_text().partition("class SingleStreamBlock")
    changed, count = re.subn(
        r"(def forward\(self, x: Tensor, vec: Tensor, )pe(.*\n)", r"\1rotary\2        pe = rotary\n", rest
    )
    assert count == 1
    layers.write_text(head + single + changed)
    changed, count = re.subn(
        r"block\(args\[\"img\"\],\n(.*\n)( +)pe=", r'block(args["img"],\n\1\2rotary=', model.read_text()
    )
    changed, called = re.subn(r"(img = block\(img, vec=vec, )pe=", r"\1rotary=", changed)
    assert count and called == 1
    model.write_text(changed)
    return copy


@pytest.fixture(scope="module")
def server(host, tmp_path_factory):
    tree = tree_with_a_renamed_argument(host.tree, tmp_path_factory.mktemp("tree") / "ComfyUI")
    base = make_base_directory(tmp_path_factory.mktemp("other-comfyui"), TEST_PACKS)
    with ComfyInstance(Host(tree, host.python), base, ["--cpu", "--force-fp32"], {"OMP_NUM_THREADS": "1"}) as instance:
        yield instance


@pytest.fixture
def client(server):
    with ComfyClient(server.url, server.base / "output") as session:
        yield session


def latents(server, client, kind, **config):
    """Stock's latent and ours, by the "loader" or by XDiTSampler on a "stock" MODEL."""
    graph, shelf = Graph(), ModelShelf(server.base / "models")
    options = {"unet_name": shelf.flux(), "weight_dtype": "default"}
    parallel = {"parallel_config": graph.parallel_config("cpu:2", **config)}
    stock = graph.add("UNETLoader", **options)
    ours = graph.add("XDiTLoader", **options, **parallel) if kind == "loader" else stock
    positive, negative = graph.flux_conditioning(1), graph.flux_conditioning(2, 33)
    empty = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)
    common = {"negative": negative, "cfg": 3.0}
    saved = [
        graph.save(graph.sample("KSampler", stock, positive, empty, **common)),
        graph.save(graph.sample("KSampler", ours, positive, empty, **common))
        if kind == "loader"
        else graph.save(graph.sample("XDiTSampler", ours, positive, empty, **common, **parallel)),
    ]
    result = client.run(graph.prompt)
    return [client.latent(result, node.id) for node in saved]


@pytest.mark.parametrize("kind", ["loader", "stock"])
@pytest.mark.parametrize(("config", "used"), [({}, "cfg 2"), ({"ulysses": 2}, "one device")])
def test_the_model_runs_without_its_plan(server, client, kind, config, used):
    start = server.log.stat().st_size
    stock, found = latents(server, client, kind, **config)
    assert relative_error(found, stock) <= TOLERANCE
    (line,) = [line for line in server.log_since(start).splitlines() if "xDiT:" in line and " on 2 CPU rank(s)" in line]
    assert used in line
    told = [line for line in server.log.read_text().splitlines() if "runs without its sharding plan" in line]
    assert len(told) == 1 and WHY in told[0] and "divided by cfg and batch only" in told[0]
    assert "cannot be rebuilt" not in server.log.read_text()


def test_degrees_that_need_the_plan_are_refused_where_the_config_says_so(server, client):
    with pytest.raises(PromptFailed) as failed:
        latents(server, client, "loader", ulysses=2, unsupported="refuse")
    assert "does not match its sharding plan" in failed.value.result.error.message
    assert WHY in failed.value.result.error.message


def flux():
    return comfy.ldm.flux.model.Flux(
        **flux_config(256, 1, 1, True), device="meta", operations=comfy.ops.disable_weight_init
    )


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"blocks": (dataclasses.replace(FLUX.blocks[0], path="dual_blocks"),)}, "Flux has no dual_blocks"),
        ({"blocks": (dataclasses.replace(FLUX.blocks[0], local=("cross",)),)}, "has no cross"),
        ({"gathers": (Gather("last_layer", ("img",)),)}, "Flux has no last_layer"),
        ({"attention_globals": ("comfy.ldm.flux.math:attend",)}, "there is no comfy.ldm.flux.math:attend"),
        ({"heads": "heads"}, "has no heads, its number of heads"),
    ],
)
def test_whatever_a_plan_names_is_looked_for(changes, found):
    assert found in mismatch(flux(), dataclasses.replace(FLUX, **changes))


def test_a_forward_that_a_node_replaced_is_no_mismatch():
    model = flux()
    model.double_blocks[0].forward = lambda *args: args
    assert plan_for(model) is FLUX and Workload.of(model, 1, (1, 16, 8, 8)).heads == 2
