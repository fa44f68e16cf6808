"""A node pack registers a sharding plan for its own architecture, which is then divided like those of this pack."""

import sys
from dataclasses import replace

import comfy.ops
import pytest
import torch
from safetensors.torch import save_file
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE
from support.parity import relative_error
from support.plan_nodes import model as own
from support.prompts import Graph
from support.random_weights import random_weights
from xdit_comfyui.parallel_backend.sharding.plan.argument_kinds import Positions, Tokens
from xdit_comfyui.parallel_backend.sharding.plan.plan import Blocks, Gather
from xdit_comfyui.parallel_backend.sharding.plan.plan_check import check_plan
from xdit_comfyui.parallel_backend.sharding.plans import PLANS, for_packs
from xdit_comfyui.parallel_backend.sharding.plans.flux import FLUX
from xdit_comfyui.parallel_backend.sharding.plans.krea2 import KREA2
from xdit_comfyui.parallel_backend.sharding.plans.registry import PackPlan, Registry, pack_title

OF_A_PACK = replace(KREA2, model="/packs/custom_nodes/one.model.Transformer")


@pytest.fixture(scope="module")
def weights(models):
    """The name of a file for the pack's loader."""
    transformer = own.Transformer(torch.float32, "meta", comfy.ops.disable_weight_init)
    folder = models.models / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(random_weights(transformer, 5), folder / "tiny-of-a-pack.safetensors")
    return "tiny-of-a-pack.safetensors"


def latents(client, weights, architecture="Transformer", register=None, seed=7, **config):
    """Stock's latent and ours."""
    graph = Graph()
    model = graph.add("OwnArchitectureLoader", unet_name=weights, architecture=architecture)
    if register is not None:
        model = graph.add("RegisterPlan", model=model, which=register)
    text = graph.add("RandomConditioning", seed=1, tokens=13, context_dim=own.CONTEXT, pooled_dim=0, guidance=-1.0)
    empty = graph.add("EmptySD3LatentImage", width=112, height=80, batch_size=1)
    parallel = {"parallel_config": graph.parallel_config("cpu:2", ulysses=2, **config)}
    options = {"steps": 2, "seed": seed}
    saved = [
        graph.save(graph.sample("KSampler", model, text, empty, **options)),
        graph.save(graph.sample("XDiTSampler", model, text, empty, **options, **parallel)),
    ]
    result = client.run(graph.prompt)
    return [client.latent(result, node.id) for node in saved]


def line(comfy, start):
    """The one that says how the last run was divided."""
    return [line for line in comfy.log_since(start).splitlines() if "xDiT:" in line and " on 2 CPU rank(s)" in line][-1]


def test_a_plan_registered_while_ranks_hold_the_model_divides_the_next_prompt(client, comfy, weights):
    start = comfy.log.stat().st_size
    stock, found = latents(client, weights)
    assert relative_error(found, stock) <= TOLERANCE
    assert "one device" in line(comfy, start) and "Transformer has no sharding plan" in line(comfy, start)
    for seed in (8, 9):  # what a second node registers again changes nothing
        start = comfy.log.stat().st_size
        stock, found = latents(client, weights, register="right", seed=seed, unsupported="refuse")
        assert relative_error(found, stock) <= TOLERANCE
        assert "ulysses 2" in line(comfy, start)
        assert "unsharded" not in comfy.log_since(start) and "whole" not in comfy.log_since(start)


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("another for the same class", "Transformer has a plan already, that of the node pack xdit-test-plans"),
        ("for a class of xDiT's", "comfy.ldm.flux.model.Flux has a plan already, that of xDiT for ComfyUI"),
        ("no plan", "a plan is an xdit_plans.Plan, not a dict"),
    ],
)
def test_what_cannot_be_registered_is_an_error_of_the_node_that_tries(client, weights, which, said):
    latents(client, weights, register="right")
    with pytest.raises(PromptFailed) as failed:
        latents(client, weights, register=which)
    assert said in failed.value.result.error.message


def test_a_plan_that_does_not_match_is_left_out_with_its_pack_s_name(client, comfy, weights):
    start = comfy.log.stat().st_size
    stock, found = latents(client, weights, "OtherForward", register="a renamed argument")
    assert relative_error(found, stock) <= TOLERANCE
    assert "one device" in line(comfy, start)
    (told,) = [one for one in comfy.log_since(start).splitlines() if "runs without its sharding plan" in one]
    assert "the plan expects tokens too: the plan is that of the node pack xdit-test-plans" in told


# What is a plan


@pytest.mark.parametrize("plan", PLANS.values(), ids=lambda plan: plan.model.rpartition(".")[2])
def test_this_pack_s_own_plans_are_plans(plan):
    check_plan(plan)


BLOCKS = KREA2.blocks[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "Transformer"}, "'module.qualified_name'"),
        ({"blocks": ()}, "blocks: none"),
        ({"blocks": BLOCKS}, "blocks: a tuple of Blocks"),
        ({"gathers": ()}, "gathers: none"),
        ({"gathers": (Gather("last", ("img",)),)}, "last: segments: no argument of a block holds img"),
        ({"blocks": (replace(BLOCKS, attention="all"),)}, "not 'all'"),
        ({"blocks": (replace(BLOCKS, returns=("all",)),)}, "blocks: returns: segments are a tuple of names"),
        ({"blocks": (replace(BLOCKS, mask="none"),)}, "mask is one of whole, local"),
        (
            {"blocks": (Blocks("blocks", {"x": "all"}, ("all",), (("all",),)),)},
            "x is 'all'; the kinds of",
        ),
        (
            {"blocks": (Blocks("blocks", {"x": Tokens("all"), "pe": Positions("all")}, ("all",), (("all",),)),)},
            "blocks: pe: segments are a tuple",
        ),
        ({"stages": ("layers",)}, "stages: layers is not the path of blocks"),
        ({"residuals": {"input": "img"}}, "residuals['input']"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused_by_field(changes, said):
    with pytest.raises((TypeError, ValueError)) as refused:
        check_plan(replace(KREA2, **changes))
    assert said in str(refused.value)


# Who leads


def test_order_and_repetition_make_no_difference():
    other = replace(OF_A_PACK, model="/packs/custom_nodes/two.model.Transformer")
    one, two = Registry(PLANS), Registry(PLANS)
    for plan in (OF_A_PACK, other, replace(OF_A_PACK)):
        one.add(plan, "a")
    for plan in (other, OF_A_PACK):
        two.add(plan, "a")
    assert {entry.plan.model: entry for entry in one.all()} == {entry.plan.model: entry for entry in two.all()}


def test_a_rank_follows_comfyui_s_process_whatever_it_imported():
    rank = Registry(PLANS)
    rank.add(OF_A_PACK, "one")
    assert rank.follow([]) == {OF_A_PACK.model} and rank.all() == ()
    rank.add(OF_A_PACK, "one")
    assert rank.all() == ()
    assert rank.follow([PackPlan(OF_A_PACK, "one")]) == {OF_A_PACK.model}
    (held,) = rank.all()
    assert rank.follow([PackPlan(replace(OF_A_PACK), "one")]) == set() and rank.get(OF_A_PACK.model) is held


def test_other_packs_import_it_by_a_name_that_is_the_same_everywhere():
    # pytest may import this checkout once more, under the name of its folder.
    assert sys.modules["xdit_plans"].__file__ == for_packs.__file__
    with pytest.raises(ValueError, match="has a plan already"):
        for_packs.register_plan(FLUX)
    assert pack_title("/a/custom_nodes/my-pack_x_1.nodes.loader") == "my-pack_x_1"
