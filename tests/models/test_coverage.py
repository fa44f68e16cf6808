"""Every model that ComfyUI supports is either planned and tested, or listed as unsharded with the reason."""

import importlib
import inspect
from types import SimpleNamespace
from unittest import mock

import comfyui_version
import pytest
from support.architectures import architectures
from support.model_matrix import architecture_of
from support.model_side import run
from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
from xdit_comfyui.parallel_backend.sharding.engine.session import Session
from xdit_comfyui.parallel_backend.sharding.exchange.collectives import SequenceGroups
from xdit_comfyui.parallel_backend.sharding.guided.guided_call import rows_stay_together
from xdit_comfyui.parallel_backend.sharding.plan import modules
from xdit_comfyui.parallel_backend.sharding.plan.errors import ShardingError
from xdit_comfyui.parallel_backend.sharding.plans import PLANS
from xdit_comfyui.parallel_backend.sharding.plans.unsharded import LATER, ROWS_TOGETHER, UNSHARDED

from models.cases import CASES

SUPPORTED = architectures()
COMFYUI = tuple(map(int, comfyui_version.__version__.split(".")[:2]))
ONE_RANK = SequenceGroups(None, 0, 1, None, 0, 1, (0,), None)
PLAIN = {architecture_of(case): case for case in CASES.values() if case.name.endswith(": plain")}


def test_the_class_of_every_supported_model_is_found():
    import comfy.supported_models

    assert list(SUPPORTED) == [entry.__name__ for entry in comfy.supported_models.models]


@pytest.mark.parametrize("architecture", sorted({*SUPPORTED.values(), *PLANS, *UNSHARDED}))
def test_planned_and_tested_or_listed_as_unsharded(architecture):
    names = [name for name, found in SUPPORTED.items() if found == architecture]
    since, later = LATER.get(architecture, ("0", names))
    if not names and tuple(map(int, since.split("."))) > COMFYUI:
        pytest.skip(f"ComfyUI {since} brought {', '.join(later)}")
    assert names, "no supported model of this ComfyUI has this class"
    assert architecture not in LATER or names == list(later)
    assert (architecture in PLANS) != (architecture in UNSHARDED), f"{names}: in one of plan and list, not in both"
    assert (architecture in PLANS) == (architecture in PLAIN), f"{names}: a plan needs a plain case, and the reverse"


@pytest.mark.filterwarnings("ignore:module forward hook")
@pytest.mark.parametrize("architecture", sorted(PLAIN))
def test_a_renamed_block_argument_is_refused(architecture):
    plan, case = PLANS[architecture], PLAIN[architecture]
    for blocks in plan.blocks:
        model, old = case.model(), next(iter(blocks.arguments))
        with renamed(model, blocks, old), pytest.raises(ShardingError) as refusal:
            # a forward that takes **kwargs shows at its first call what it gets
            ShardedModel(model, plan).session = Session(ONE_RANK)
            run(model, case)
        assert architecture in str(refusal.value)
        assert old in str(refusal.value)


def renamed(model, blocks, old: str):
    """One block, or the function whose signature it has, as a release that calls `old` otherwise would have it."""
    owner, name = modules.blocks_at(model, blocks.path)[-1], "forward"
    if blocks.signature:
        module, _, name = blocks.signature.partition(":")
        owner = importlib.import_module(module)
    original = getattr(owner, name)
    signature = inspect.signature(original)
    parameters = [
        item.replace(name="newly_named") if item.name == old else item for item in signature.parameters.values()
    ]

    def forward(*args, **kwargs):
        return original(*args, **kwargs)

    forward.__signature__ = signature.replace(parameters=parameters)
    return mock.patch.object(owner, name, forward)


@pytest.mark.parametrize("architecture", sorted(ROWS_TOGETHER))
def test_rows_that_are_one_call_are_not_divided(architecture):
    """By the class alone, so also on a ComfyUI that does not have it."""
    module, _, name = architecture.rpartition(".")
    patcher = SimpleNamespace(model=SimpleNamespace(diffusion_model=type(name, (), {"__module__": module})()))
    why = rows_stay_together(patcher, {}, [], 2)
    assert architecture in why and ROWS_TOGETHER[architecture] in why
