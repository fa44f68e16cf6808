"""Models with compiled blocks, whole and sharded, give what they give as ComfyUI wrote them."""

import pytest
from support.model_matrix import FULL, TOLERANCE
from support.model_side import TREE
from support.rank_set import RankSets
from support.scheduling import full_run

from models.cases import CASES

CHOSEN = (
    "flux: plain",
    "flux: ControlNet",
    "flux2: timestep zero references",
    "chroma: attention mask",
    "hunyuan-video: plain",
    "krea2: plain",
    "qwen-image: padding mask",
    "sd3: plain",
    "wan: image to video",
    "z-image: plain",
)
SPLITS = ((2, 1), (1, 2), (1, 1), (3, 1))


@pytest.mark.parametrize(
    ("name", "split"), [(name, SPLITS[turn % len(SPLITS)]) for turn, name in enumerate(CASES if FULL else CHOSEN)]
)
def test_compiled_equals_whole(rank_sets, name, split):
    ranks = rank_sets[max(2, split[0] * split[1])]
    for error, notes in ranks.run(("compiled", name, *split)):
        assert error <= TOLERANCE
        assert FULL or notes == []


@pytest.mark.parametrize(
    ("name", "ranks", "backend"),
    [
        ("flux: plain", 2, "aot_eager"),
        ("hunyuan-video: plain", 3, "aot_eager"),
        pytest.param("flux: plain", 2, "inductor", marks=full_run),
    ],
)
def test_keys_are_announced_where_something_does_not_wait_for_attention(rank_sets, name, ranks, backend):
    """In single blocks: their MLP lies beside attention."""
    for error, announced, exchanges in rank_sets[ranks].run(("announced", name, backend)):
        assert error <= TOLERANCE
        assert 0 < announced < exchanges


def test_what_cannot_be_compiled_runs_as_it_is_and_says_so(rank_sets):
    for error, notes in rank_sets[2].run(("compiled", "flux: NAG", 2, 1)):
        assert error <= TOLERANCE
        assert "the patch 'attn1_output_patch' runs inside the blocks, so they are not compiled" in notes


def test_attentions_keep_their_order(rank_sets):
    """By the memory that they need, the compiler would begin with the second one, over the image alone."""
    for error, notes in rank_sets[2].run(("compiled", "sd3.5 medium: more text than image", 2, 1, "inductor")):
        assert error <= TOLERANCE
        assert notes == []


def test_without_a_c_compiler_models_run_as_they_are(host, tmp_path):
    nothing = {"CXX": "/nonexistent/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    sets = RankSets("support.model_side:ModelSide", {TREE: str(host.tree), **nothing})
    try:
        for error, notes in sets[2].run(("compiled", "wan: plain", 2, 1, "inductor")):
            assert error <= TOLERANCE
            assert any(
                "WanAttentionBlock could not be compiled and runs as it is: InvalidCxx" in note for note in notes
            )
    finally:
        sets.stop()
