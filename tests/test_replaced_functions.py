"""Which functions and classes of ComfyUI's modules count as replaced by somebody else's."""

import functools
import itertools
import sys
import types

import comfy.k_diffusion.sampling
import comfy.ldm.flux.layers
import comfy.ldm.flux.math
import comfy.ldm.flux.model
import comfy.ldm.wan.model
import comfy.ops
import comfy.samplers
import comfy.utils
import pytest
import torch
from xdit_comfyui.parallel_backend.foreign.replaced_functions import find_replaced
from xdit_comfyui.parallel_backend.host.describe.pack_settings import settings_of
from xdit_comfyui.parallel_backend.sharding.engine.attention_override import route_global

PACK = "/somewhere/custom_nodes/some-pack/nodes.py"
numbers = itertools.count()


def of_a_pack(source, name="made", **variables):
    """What the source of a node pack's module defines."""
    module = types.ModuleType(f"{PACK[:-3]}{next(numbers)}")
    module.__file__ = PACK
    vars(module).update(variables)
    exec(compile(source, PACK, "exec"), vars(module))
    return getattr(module, name)


@pytest.fixture(scope="module")
def flux():
    return comfy.ldm.flux.model.Flux(
        dtype=torch.float32, device="meta", operations=comfy.ops.manual_cast, in_channels=16, out_channels=16,
        vec_in_dim=8, context_in_dim=8, hidden_size=64, mlp_ratio=4.0, num_heads=1, depth=1, depth_single_blocks=1,
        axes_dim=[16, 24, 24], theta=10000, patch_size=2, qkv_bias=True, guidance_embed=True, txt_ids_dims=[],
    )  # fmt: skip


def found(model=None):
    return [f"{one.module}:{one.name}" for one in find_replaced(model)]


def test_of_comfyui_as_it_is_nothing_counts_as_replaced(flux):
    assert found() == found(flux) == []


PLAIN = "def made(*args, **kwargs):\n    pass\n"
CALLABLE = "class Made:\n    def __call__(self, *args):\n        pass\nmade = Made()\n"


@pytest.mark.parametrize(
    "make",
    [
        lambda own: of_a_pack(PLAIN),
        lambda own: of_a_pack(CALLABLE),
        lambda own: functools.partial(of_a_pack(PLAIN), 1),
        lambda own: functools.wraps(own)(of_a_pack(PLAIN)),
        lambda own: of_a_pack("class Made:\n    def made(self): pass\nmade = Made().made\n"),
        lambda own: functools.lru_cache(of_a_pack(PLAIN)),
        lambda own: comfy.ldm.flux.math.rope,
        lambda own: functools.partial(comfy.ldm.flux.math.rope, dim=4),
        lambda own: torch.nn.functional.silu,
    ],
    ids=["function", "object", "partial", "wraps", "method", "lru_cache", "other", "partial of other", "library"],
)
def test_a_function_that_is_not_the_modules_own_is_found(flux, monkeypatch, make):
    monkeypatch.setattr(comfy.ldm.flux.math, "attention", make(comfy.ldm.flux.math.attention))
    assert found(flux) == found() == ["comfy.ldm.flux.math:attention"]
    monkeypatch.undo()
    assert found(flux) == []


@pytest.mark.parametrize(
    ("owner", "name", "make"),
    [
        (comfy.ldm.flux.model.Flux, "forward_orig", lambda: of_a_pack(PLAIN)),
        (comfy.ldm.flux.layers, "attention", lambda: of_a_pack(PLAIN)),
        (comfy.ldm.flux.layers, "DoubleStreamBlock", lambda: of_a_pack("class made: pass")),
        (comfy.samplers.CFGGuider, "predict_noise", lambda: of_a_pack(PLAIN)),
        (comfy.samplers.KSAMPLER, "sample", lambda: comfy.samplers.CFGGuider.sample),
        (comfy.k_diffusion.sampling, "sample_euler", lambda: of_a_pack(PLAIN)),
        (comfy.ops.disable_weight_init.Linear, "forward", lambda: of_a_pack(PLAIN)),
        (torch.nn.functional, "silu", lambda: of_a_pack(PLAIN)),
    ],
)
def test_imported_names_classes_and_methods_are_found(flux, monkeypatch, owner, name, make):
    monkeypatch.setattr(owner, name, make())
    (one,) = find_replaced(flux)
    assert one.name.rpartition(".")[2] == name
    assert one.value is vars(owner)[name]


def test_the_pack_is_named(flux, monkeypatch):
    monkeypatch.setattr(comfy.ldm.flux.math, "attention", of_a_pack(PLAIN))
    (one,) = find_replaced(flux)
    assert one.pack == "the node pack 'some-pack'" and one.title == "comfy.ldm.flux.math.attention"


def test_what_the_model_does_not_reach_and_what_is_only_added_does_not_count(flux, monkeypatch):
    monkeypatch.setattr(comfy.ldm.wan.model, "sinusoidal_embedding_1d", of_a_pack(PLAIN))
    monkeypatch.setattr(comfy.k_diffusion.sampling, "sample_of_a_pack", of_a_pack(PLAIN), raising=False)
    monkeypatch.setattr(comfy.utils, "load_torch_file", of_a_pack(PLAIN))
    assert found(flux) == []
    assert found() == ["comfy.ldm.wan.model:sinusoidal_embedding_1d"]


def test_what_this_pack_replaces_does_not_count(monkeypatch):
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", comfy.ldm.wan.model.optimized_attention)
    route_global("comfy.ldm.wan.model:optimized_attention", lambda: None)
    assert found() == []


def test_settings_are_the_data_that_the_function_reads(monkeypatch):
    source = (
        "def helper():\n    return Config.strength + table['a']\n"
        "class Config:\n    strength = 0.5\n    other = 1\n"
        "def made():\n    return factor * helper() + original()\n"
    )
    own = comfy.ldm.flux.math.attention
    made = of_a_pack(source, factor=2.0, table={"a": 1}, unread=3, original=own)
    monkeypatch.setitem(sys.modules, made.__globals__["__name__"], types.SimpleNamespace())
    assert settings_of([made]) == []  # not the module's function: it goes by value, and so does what it reads
    module = types.ModuleType(made.__globals__["__name__"])
    module.__dict__.update(made.__globals__)
    exec(compile(source, PACK, "exec"), vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert {(path, value) for _, path, value in settings_of([module.made]) if not isinstance(value, dict)} == {
        ("factor", 2.0),
        ("original", own),
        ("Config.strength", 0.5),
    }
    assert [value for _, path, value in settings_of([module.made]) if path == "table"] == [{"a": 1}]
