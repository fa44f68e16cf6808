"""Code of nodes in a model that looks at all tokens: divided and compiled models give what they give on one device."""

import pytest
from support.model_matrix import TOLERANCE

WHERE = {
    "flux: plain": ("double_blocks.0", "double_blocks.1.img_mlp", "final_layer"),
    "wan: plain": ("blocks.1", "blocks.0.self_attn", "head"),
    "sd3: plain": ("joint_blocks.0", "joint_blocks.1.x_block.mlp", "final_layer"),
    "ltx-2: plain": ("transformer_blocks.1", "transformer_blocks.0.ff", "norm_out"),
    "hidream: plain": ("double_stream_blocks.0", "single_stream_blocks.0.block.ff_i", "final_layer"),
}


def places():
    for name, (block, inside, final) in WHERE.items():
        for path in (block, inside, final) if name in ("flux: plain", "wan: plain") else (block, inside):
            yield name, path


@pytest.mark.parametrize(("name", "path"), places())
def test_a_replaced_forward(rank_sets, name, path):
    for during, otherwise, notes, before in rank_sets[2].run(("foreign", name, "forward", (path,), 2, 1)):
        assert max(during, otherwise) <= TOLERANCE
        assert before == []
        assert any(f"replaced_forward.<locals>.forward of support.foreign_code (the forward of {path})" in one
                   and "may look at all tokens" in one for one in notes), notes  # fmt: skip


@pytest.mark.parametrize("kind", ["hook", "class", "module", "class function", "hook on all"])
@pytest.mark.parametrize(("name", "path"), [("flux: plain", "double_blocks.1.img_mlp"), ("wan: plain", "blocks.1")])
def test_other_ways_to_put_code_in(rank_sets, name, path, kind):
    for during, otherwise, notes, _ in rank_sets[2].run(("foreign", name, kind, (path,), 1, 2)):
        assert max(during, otherwise) <= TOLERANCE
        assert any("may look at all tokens" in one for one in notes), notes


def test_in_every_block(rank_sets):
    paths = tuple(f"blocks.{index}.self_attn" for index in range(2))
    for during, otherwise, notes, _ in rank_sets[2].run(("foreign", "wan: plain", "forward", paths, 2, 1)):
        assert max(during, otherwise) <= TOLERANCE
        assert len(notes) == 1 and "in every block; this model call runs unsharded" in notes[0]


def test_the_model_itself(rank_sets):
    for during, otherwise, notes, _ in rank_sets[2].run(("foreign", "flux: plain", "forward", ("",), 2, 1)):
        assert max(during, otherwise) <= TOLERANCE
        assert "(the forward of the diffusion model)" in notes[0]


@pytest.mark.parametrize("kind", ["forward", "hook", "class", "module", "class function", "bypass"])
def test_compiled(rank_sets, kind):
    path = "double_blocks.1.img_mlp.0" if kind == "bypass" else "double_blocks.1.img_mlp"
    for during, otherwise, notes, before in rank_sets[2].run(("foreign", "flux: plain", kind, (path,), 2, 1, True)):
        assert max(during, otherwise) <= TOLERANCE
        assert before == []
        assert sum("runs in blocks of the model; these are not compiled" in one for one in notes) >= 1, notes
        assert any("may look at all tokens" in one for one in notes) == (kind != "bypass")


def test_what_takes_each_token_by_itself_costs_nothing(rank_sets):
    path = ("double_blocks.0.img_attn.qkv",)
    for during, otherwise, notes, _ in rank_sets[2].run(("foreign", "flux: plain", "bypass", path, 2, 1)):
        assert max(during, otherwise) <= TOLERANCE
        assert notes == []


FLAGS = [
    {"a2v_cross_attn": False},
    {"v2a_cross_attn": False},
    {"run_vx": False},
    {"run_ax": False},
    {"run_vx": False, "v2a_cross_attn": False},
]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("options", FLAGS, ids=str)
def test_guidance_of_ltx_2(rank_sets, options, compiled):
    ulysses, ring = (1, 2) if "run_vx" in options else (2, 1)
    for during, after, notes in rank_sets[2].run(("flagged", "ltx-2: plain", options, ulysses, ring, compiled)):
        assert max(during, after) <= TOLERANCE
        assert notes == []


def test_guidance_of_ltx_2_on_one_device_compiled(rank_sets):
    for during, after, notes in rank_sets[2].run(("flagged", "ltx-2: plain", FLAGS[2], 1, 1, True)):
        assert max(during, after) <= TOLERANCE
        assert notes == []


def test_guidance_before_any_other_call(rank_sets):
    """Nothing tells yet whether attention is left out, or does not pass the exchange."""
    for during, after, notes in rank_sets[2].run(("flagged", "ltx-2: plain", FLAGS[2], 2, 1, False, False)):
        assert max(during, after) <= TOLERANCE
        assert len(notes) == 1 and "reads 'run_vx' of transformer_options" in notes[0]


def test_a_setting_that_is_no_constant(rank_sets):
    options = {"a2v_cross_attn": {}, "run_ax": False}
    line = "the blocks read 'a2v_cross_attn' of transformer_options, a dict, so they are not compiled"
    for during, after, notes in rank_sets[2].run(("flagged", "ltx-2: plain", options, 2, 1, True)):
        assert max(during, after) <= TOLERANCE
        assert set(notes) == {line}


@pytest.mark.parametrize("name", ["ernie: plain", "hunyuan-dit: plain", "pixart: plain"])
@pytest.mark.parametrize("split", [(1, 1), (2, 1)])
def test_blocks_without_transformer_options(rank_sets, name, split):
    for error, notes in rank_sets[2].run(("compiled", name, *split)):
        assert error <= TOLERANCE
        assert notes == []
