"""Who is around a model and its blocks, from outside in: the order that docs/architecture.md tells."""

from types import SimpleNamespace

import pytest
import torch
from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
from xdit_comfyui.parallel_backend.loading.parameter_source import Stored
from xdit_comfyui.parallel_backend.rank.process.main import attach_plan
from xdit_comfyui.parallel_backend.rank.weights.flat_block import Unit
from xdit_comfyui.parallel_backend.rank.weights.sharded_blocks import DividedBlocks
from xdit_comfyui.parallel_backend.sharding.engine.session import Session
from xdit_comfyui.parallel_backend.sharding.exchange.collectives import SequenceGroups
from xdit_comfyui.parallel_backend.sharding.pipeline.pipelined_model import PipelinedModel
from xdit_comfyui.parallel_backend.sharding.pipeline.schedule import Schedule

from models.cases import CASES

ONE_RANK = SequenceGroups(None, 0, 1, None, 0, 1, (0,), None)
CPU = torch.device("cpu")


@pytest.fixture
def model():
    """Flux as a rank has it: planned, its first block's weights divided, compiled, in a pipeline of two stages."""
    loaded = torch.nn.Module()
    loaded.diffusion_model = model = CASES["flux: plain"].model()
    attach_plan(loaded)
    block = model.double_blocks[0]
    weight = Stored("weight", block.img_mlp[0], "weight", block.img_mlp[0].weight.detach(), None)
    DividedBlocks([Unit(block, [weight], 0, 2)], CPU, offload=False)
    accelerate(model, loaded.xdit_sharded, "eager")
    loaded.xdit_sharded.session = Session(ONE_RANK)
    pipe = SimpleNamespace(stages=SimpleNamespace(size=2, index=0))
    pipeline = PipelinedModel(loaded.xdit_sharded, pipe, Schedule(2, 1, 4), print)
    pipeline.start()
    yield model
    pipeline.stop()


def made_in(hooks) -> list[str]:
    """The modules of this pack that hooks or functions are of."""
    functions = [getattr(hook, "__func__", hook) for hook in hooks]
    return [function.__globals__["__name__"].rpartition(".")[2] for function in functions]


def layers(function):
    """A function and what it wraps, from outside in."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def test_around_the_model(model):
    assert made_in(model._forward_pre_hooks.values()) == ["agreement", "model_watch", "engine"]
    assert made_in(layers(model.forward)) == ["graphs", "graphs", "model"]
    assert made_in(layers(model._forward)) == ["pipelined_model", "model"]
    assert made_in(model._forward_hooks.values()) == ["engine"]
    assert made_in(model.final_layer._forward_hooks.values()) == ["engine", "pipelined_model"]


def test_around_a_block(model):
    block = model.double_blocks[0]
    assert made_in(block._forward_pre_hooks.values()) == ["sharded_blocks", "engine"]
    assert made_in(layers(block.forward)) == ["pipelined_model", "blocks", "layers"]
    assert made_in(block._forward_hooks.values()) == ["engine", "sharded_blocks"]
