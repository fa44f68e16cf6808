"""What a model call says of its tokens before it knows them, and what cannot be handed from stage to stage."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from xdit_comfyui.parallel_backend.sharding.engine.call_modes import Mode
from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
from xdit_comfyui.parallel_backend.sharding.engine.model_call import Call
from xdit_comfyui.parallel_backend.sharding.engine.session import Session
from xdit_comfyui.parallel_backend.sharding.exchange.collectives import SequenceGroups
from xdit_comfyui.parallel_backend.sharding.pipeline.pipelined_model import PipelinedModel
from xdit_comfyui.parallel_backend.sharding.pipeline.schedule import Schedule
from xdit_comfyui.parallel_backend.sharding.plan.errors import ShardingError
from xdit_comfyui.parallel_backend.sharding.plans.flux import FLUX

from models.cases import CASES

ONE_RANK = SequenceGroups(None, 0, 1, None, 0, 1, (0,), None)
TWO_STAGES = SimpleNamespace(stages=SimpleNamespace(size=2, index=0))


def test_a_call_asked_too_early_says_so():
    call = Call(Session(ONE_RANK), Mode.PERSIST)
    with pytest.raises(ShardingError, match="lengths of its tokens are unknown"):
        call.split(("img",))
    with pytest.raises(ShardingError, match="belongs inside a block"):
        call.mask(None, ("img",))


def sharded(returns) -> ShardedModel:
    """Flux whose double blocks return this, by its plan."""
    double, *others = FLUX.blocks
    model = ShardedModel(
        CASES["flux: plain"].model(), replace(FLUX, blocks=(replace(double, returns=returns), *others))
    )
    model.session = Session(ONE_RANK)
    return model


@pytest.mark.parametrize("returns", [(("img",), None), (("img",), ("vec",))])
def test_stages_hand_over_only_what_the_next_block_takes(returns):
    pipeline = PipelinedModel(sharded(returns), TWO_STAGES, Schedule(2, 1, 4), print)
    with pytest.raises(ShardingError, match=r"double_blocks\.0 returns .*leave double_blocks out of the plan's stages"):
        pipeline.start()


def test_a_pipeline_needs_a_session():
    model = sharded((("img",), ("txt",)))
    model.session = None
    with pytest.raises(ValueError, match="the model is in none"):
        PipelinedModel(model, TWO_STAGES, Schedule(2, 1, 4), print)
