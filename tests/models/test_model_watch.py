"""What counts as foreign code in a model, and what does not: its classes' own, this pack's, what ComfyUI leaves."""

import contextlib
import functools
import time
import types

import pytest
from support.tiny_models import flux_config
from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
from xdit_comfyui.parallel_backend.sharding.foreign.model_watch import watch
from xdit_comfyui.parallel_backend.sharding.pipeline.empty_patches import spare_linears
from xdit_comfyui.parallel_backend.sharding.pipeline.pipelined_model import PipelinedModel
from xdit_comfyui.parallel_backend.sharding.plan.modules import replaced
from xdit_comfyui.parallel_backend.sharding.plans.flux import FLUX


def flux(double=2, single=2):
    import comfy.ldm.flux.model
    import comfy.ops

    config = flux_config(256, double, single, True)
    return comfy.ldm.flux.model.Flux(**config, device="meta", operations=comfy.ops.manual_cast)


@pytest.fixture
def model():
    return flux()


def found(model):
    return [(one.path, one.what) for one in watch(model).look()]


def foreign(self, *args, **kwargs):
    return None


def test_what_this_pack_does_to_a_model(model):
    watch(model)
    sharded = ShardedModel(model, FLUX)
    accelerate(model, sharded, "aot_eager")
    assert found(model) == []
    spare_linears(model.modules())
    assert found(model) == []
    wrap = PipelinedModel._run_once(types.SimpleNamespace(_once=None), "once")
    with contextlib.ExitStack() as stack:
        for module in (model.img_in, model.double_blocks[0], model.final_layer):
            stack.enter_context(replaced(module, "forward", _wrapped(wrap, module.forward)))
        assert found(model) == []
    assert found(model) == [] and found(flux()) == []


def _wrapped(wrap, original):

    return functools.wraps(original)(wrap(original))


def test_what_comfyui_leaves_behind_is_the_model_s_own(model):
    watch(model)
    block = model.single_blocks[0]
    own = block.forward
    block.forward = types.MethodType(foreign, block)
    assert found(model) == [("single_blocks.0", "forward")]
    block.forward = own
    assert found(model) == []
    block.forward = model.single_blocks[1].forward
    assert found(model) == [("single_blocks.0", "forward")]


def test_below_this_pack_s_wrappers(model):
    watch(model)
    module = model.img_in
    module.forward = types.MethodType(foreign, module)
    wrap = PipelinedModel._run_once(types.SimpleNamespace(_once=None), "once")
    with replaced(module, "forward", _wrapped(wrap, module.forward)):
        assert found(model) == [("img_in", "forward")]


def test_another_attribute_goes_when_a_forward_comes(model):
    model.img_in.of_a_lora = True
    watch(model)
    found(model)
    del model.img_in.of_a_lora
    model.img_in.forward = types.MethodType(foreign, model.img_in)
    assert found(model) == [("img_in", "forward")]


def test_a_look_is_quick():
    """At a FLUX.1-dev of full depth; the bound is generous, for machines under load."""
    model = flux(19, 38)
    look = watch(model).look
    look()
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        look()
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.0005
