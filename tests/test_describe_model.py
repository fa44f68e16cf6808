"""The tool for authors of plans: what it prints of a model's blocks, and the plan that it proposes."""

import importlib
import os
import subprocess
import sys

import pytest
import torch
from comfy_host import PACK_ROOT
from support.model_case import _built
from support.plan_nodes import plans as packs_plans
from xdit_comfyui.parallel_backend.describe_model.model_source import NoModel, Source, source
from xdit_comfyui.parallel_backend.describe_model.observed import observe
from xdit_comfyui.parallel_backend.describe_model.proposal import NoProposal, propose
from xdit_comfyui.parallel_backend.describe_model.text import as_python, described
from xdit_comfyui.parallel_backend.describe_model.tiny_call import SIZES, CannotCall, observed
from xdit_comfyui.parallel_backend.sharding.plans import PLANS

OF_A_PACK = str(PACK_ROOT / "tests" / "support" / "plan_nodes" / "model.py")


def as_seen(name):
    """The plain case of an architecture that has a plan, and its calls with shapes alone."""
    case = importlib.import_module(f"models.cases.{name}").CASES[0]
    (args, kwargs), model = case.inputs(), _built(case.build, "meta").eval().requires_grad_(False)

    def call(options, size, tokens):
        def empty(value, is_latent=False):
            shape = (*value.shape[:-2], *size) if is_latent else value.shape
            return torch.empty((shape[0], tokens, shape[2]) if len(shape) == 3 else shape, device="meta")

        others = {name: empty(value) for name, value in kwargs.items() if isinstance(value, torch.Tensor)}
        with torch.inference_mode():
            model(*(empty(value, value is args[0]) for value in args), **others, transformer_options=options)

    return model, observe(model, call, SIZES)


@pytest.mark.parametrize("name", ["flux", "krea2", "wan", "aura_flow", "hunyuan_video", "kandinsky5"])
def test_it_proposes_what_our_own_plans_say(name):
    model, seen = as_seen(name)
    found = propose(model, seen).plan
    own = PLANS[found.model]
    assert [blocks.path for blocks in found.blocks] == [blocks.path for blocks in own.blocks]
    for proposed, blocks in zip(found.blocks, own.blocks, strict=True):
        for part in ("attention", "returns", "local", "then"):
            assert getattr(proposed, part) == getattr(blocks, part)
        assert proposed.arguments.items() <= blocks.arguments.items()
        needed = {name for name, value in seen.lists[blocks.path][0].arguments.items() if _counts_tokens(value)}
        assert blocks.arguments.keys() & needed == proposed.arguments.keys()
    assert [(one.path, one.segments) for one in found.gathers] == [(one.path, one.segments) for one in own.gathers]
    assert found.heads == own.heads


def _counts_tokens(value):
    return bool(getattr(value, "token_dims", list)())


def test_the_plan_of_the_test_pack_is_what_it_proposes():
    """So test_plans_of_packs.py shows that what is pasted divides the model right."""
    found = source(f"{OF_A_PACK}:Transformer", {})
    seen, _ = observed(found, {}, None, None)
    said = as_python(propose(found.model, seen)).replace("register_plan(PLAN)", "")
    names = {"Transformer": type(found.model)}
    exec(said, names)
    assert names["PLAN"] == packs_plans.plan(type(found.model))
    text = described(seen)
    for line in (
        "joint: 2 calls of blocks",
        "    img = [1, 96 img, 64] float32",
        "    txt = [1, 13 txt, 64] float32",
        "attention of the block itself × 1: 4 heads, q [1, 4, 109 txt + img, 16]",
        "attention in cross × 1: 4 heads, q [1, 109 txt + img, 64] float32, k [1, 13 txt, 64]",
        "behind the last block: final [1, 96 img, 64]",
    ):
        assert line in text


class Sum(torch.nn.Module):
    """No attention, and no text."""

    def __init__(self, **_):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(16, 16, device="meta")])

    def forward(self, x, timesteps, context, transformer_options=None):
        return self.blocks[0](x.flatten(2).transpose(1, 2))


def test_what_has_no_plan_is_told():
    seen, _ = observed(Source(Sum(), (16,), 2), {}, None, None)
    with pytest.raises(NoProposal, match="no list of blocks calls ComfyUI's attention"):
        propose(Sum(), seen)


def test_a_call_that_does_not_go_is_told_with_what_the_model_takes():
    found = source(f"{OF_A_PACK}:Transformer", {})
    with pytest.raises(CannotCall, match=r"Transformer went through; name its inputs .* takes \(x, timesteps, context"):
        observed(found, {"context": (1, "T", 50)}, None, None)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing.safetensors", "neither a file nor module:Class"),
        ("comfy.ldm.flux.model:Fluxx", "there is no Fluxx in comfy.ldm.flux.model"),
        ("comfy.ldm.hidream.model:HiDreamImageTransformer2DModel", "as --config JSON: (patch_size"),
        (f"{OF_A_PACK}x.py:Transformer", "there is no file /"),
    ],
)
def test_what_is_no_model_is_told(what, said):
    with pytest.raises(NoModel) as refused:
        source(what, {})
    assert said in str(refused.value)


def test_the_command_on_a_file(host, models):
    file = models.models / "diffusion_models" / models.quantised_flux("fp8")
    command = [sys.executable, str(PACK_ROOT / "parallel_backend" / "describe_model"), str(file)]
    run = subprocess.run(
        command, env={**os.environ, "COMFYUI_PATH": str(host.tree)}, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("comfy.ldm.flux.model.Flux, called with latent [1, 16, 16, 24], context [1, 13, 128]")
    assert "# Flux has a plan already" in run.stdout
    assert 'Gather("final_layer", ("img",))' in run.stdout and "register_plan(PLAN)" in run.stdout
