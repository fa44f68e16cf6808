"""Where `auto` puts a model's weights, by what fits."""

from types import SimpleNamespace

import comfy.sd
import pytest
import torch
from support.tiny_models import ModelShelf
from xdit_comfyui.parallel_backend.contract.config import ConfigError, Degrees, ParallelConfig
from xdit_comfyui.parallel_backend.contract.recipe import Recipe
from xdit_comfyui.parallel_backend.contract.reports import Memory, Standing
from xdit_comfyui.parallel_backend.host.model.seam import Seam
from xdit_comfyui.parallel_backend.host.model.weightless_model import XDiTModelPatcher
from xdit_comfyui.parallel_backend.host.strategy.choose import Workload, choose
from xdit_comfyui.parallel_backend.host.strategy.weight_fit import Footprint, Room, measured_room, with_weights
from xdit_comfyui.parallel_backend.sharding.plans.flux import FLUX

GIB = 2**30
FOOTPRINT = Footprint(blocks=22 * GIB, largest=GIB // 2, rest=GIB)  # as FLUX.1-dev in bf16


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return ModelShelf(tmp_path_factory.mktemp("fit"))


def flux(conditions=1, plan=FLUX, **more):
    return Workload("Flux", plan, 24 if plan else None, conditions, (1, 16, 128, 128), **more)


def placed(free, work=None, ranks=2, activations=2, ran_out=False, **config):
    work, config = work or flux(), ParallelConfig(**config)
    room = Room(FOOTPRINT, free * GIB, activations * GIB, GIB, ran_out)
    return with_weights(choose(config, ranks, work), config, ranks, work, room)


@pytest.mark.parametrize(
    ("free", "ranks", "weights"),
    [
        (25, 2, "replicate"),
        (24, 2, "shard"),
        (15, 2, "shard"),
        (14, 2, "shard + offload"),
        (4, 2, "shard + offload"),
        (9, 4, "shard"),
    ],
)
def test_the_first_that_fits(free, ranks, weights):
    choice = placed(free, ranks=ranks)
    assert choice.weights == weights
    said = f"23.0 GiB do not fit in {free}.0 GiB free" in str(choice)
    assert said == (weights != "replicate")


def test_conditions_make_way_for_tokens_where_weights_have_to_be_divided():
    guided = flux(conditions=2)
    assert placed(25, guided, activations=1).degrees == Degrees(cfg=2)
    choice = placed(20, guided)
    assert (choice.degrees, choice.weights) == (Degrees(cfg=2), "shard")
    choice = placed(15, guided)
    assert (choice.degrees, choice.weights) == (Degrees(ulysses=2), "shard")
    choice = placed(14, guided)
    assert (choice.degrees, choice.weights) == (Degrees(cfg=2), "shard + offload")
    choice = placed(16, guided, ranks=4)
    assert (choice.degrees, choice.weights) == (Degrees(cfg=2, ulysses=2), "shard")
    choice = placed(9, guided, ranks=4)
    assert (choice.degrees, choice.weights) == (Degrees(ulysses=4), "shard")
    manual = placed(15, guided, strategy="manual", degrees=Degrees(cfg=2))
    assert (manual.degrees, manual.weights) == (Degrees(cfg=2), "shard + offload"), "as it was asked for"


def test_blocks_are_divided_over_all_conditions_and_images_where_no_sequence_is():
    assert FOOTPRINT.on_a_rank("shard", Degrees(cfg=2)) == 13 * GIB
    assert FOOTPRINT.on_a_rank("shard", Degrees(cfg=2, batch=2)) == 7.5 * GIB
    assert FOOTPRINT.on_a_rank("shard", Degrees(cfg=2, ulysses=2)) == 13 * GIB
    assert FOOTPRINT.on_a_rank("shard + offload", Degrees(cfg=2)) == 2 * GIB


def test_what_fits_nowhere_is_refused_with_the_figures():
    with pytest.raises(ConfigError, match="23.0 GiB do not fit in 3.0 GiB free .* 4.0 GiB with weights sharded"):
        placed(3)


def test_after_memory_ran_out_weights_are_divided_if_they_can():
    choice = placed(100, ran_out=True)
    assert choice.weights == "shard" and "weights sharded: memory ran out" in str(choice)
    assert placed(100, flux(conditions=2), ran_out=True).degrees == Degrees(ulysses=2)
    assert placed(100, flux(conditions=2), ran_out=True, weights="shard").degrees == Degrees(ulysses=2)
    assert placed(100, flux(plan=None), ran_out=True).weights == "replicate"
    assert placed(3, ran_out=True).weights == "replicate", "the second try says what there is"


def test_what_cannot_be_divided_is_tried_whole():
    assert placed(3, flux(plan=None)).weights == "replicate"
    assert placed(3, flux(hook_lora=True)).weights == "replicate"
    assert placed(3, ranks=1).weights == "replicate"


@pytest.mark.parametrize(
    ("work", "ranks", "config", "said"),
    [
        (flux(plan=None), 2, {}, "Flux has no plan"),
        (flux(), 1, {}, "name more devices"),
        (flux(blocks=57), 2, {"strategy": "manual", "degrees": Degrees(pipefusion=2)}, "PipeFusion divides"),
        (flux(hook_lora=True), 2, {}, "hook LoRA"),
    ],
)
def test_what_was_asked_for_and_cannot_be_had_is_refused(work, ranks, config, said):
    with pytest.raises(ConfigError, match=said) as refused:
        placed(100, work, ranks, weights="shard", **config)
    assert "set" in str(refused.value)


def test_room_is_measured_in_the_ranks(shelf):
    """The devices' free memory and what makes room there; the weightless MODEL tells what it needs."""
    path = shelf.models / "diffusion_models" / shelf.flux()
    patcher = XDiTModelPatcher.from_recipe(Recipe(comfy.sd.load_diffusion_model, (str(path),)), None, Seam(pytest.fail))
    memory = {0: (10 * GIB, ()), 1: (4 * GIB, (("a model", 5 * GIB), ("another", GIB // 2)))}
    answers = {rank: Standing(memory=Memory(free, 16 * GIB), models=models) for rank, (free, models) in memory.items()}
    group = SimpleNamespace(
        devices=SimpleNamespace(kind="cuda", indices=(0, 1)), size=2, ask=lambda stacks: dict(answers)
    )
    guider = SimpleNamespace(model_patcher=patcher, model_options={}, conds={"positive": []})
    room = measured_room(guider, torch.Size((1, 16, 128, 128)), group, FLUX)
    assert room.free == 9.5 * GIB and room.companions == 0
    assert room.activations > 0
    assert room.footprint.whole == sum(parameter.nbytes for parameter in patcher.model.diffusion_model.parameters())
    double = patcher.model.diffusion_model.double_blocks[0]
    assert room.footprint.largest == sum(parameter.nbytes for parameter in double.parameters())

    answers.pop(1)
    assert measured_room(guider, torch.Size((1, 16, 128, 128)), group, FLUX) is None, "a rank that does not answer"


def test_what_was_asked_for_is_taken_whatever_fits():
    assert placed(100, weights="shard").weights == "shard"
    assert placed(100, weights="shard + offload").weights == "shard + offload"
    assert placed(1, weights="replicate").weights == "replicate"
    guided = flux(conditions=2)
    assert placed(16, guided, weights="shard").degrees == Degrees(cfg=2)
    for free in (15, 1):
        assert placed(free, guided, weights="shard").degrees == Degrees(ulysses=2), "tokens need less memory"
    unknown = with_weights(choose(ParallelConfig(), 2, guided), ParallelConfig(weights="shard"), 2, guided, None)
    assert unknown.degrees == Degrees(cfg=2), "what fits is not known"
