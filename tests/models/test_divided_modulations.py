"""Ranks that share a sequence compute modulations once between them, and give what they give when each computes all."""

import re
from collections import Counter

import pytest

BLOCKS = r"^(?:double|single)_blocks.*mod"
LAYERS = r"^(?:noise_refiner|layers).*adaLN"
# Model → what the paths of the modulations of its blocks match.
MODULATIONS = {
    "auraflow": r"_layers.*mod",
    "flux": BLOCKS,
    "hunyuan-video": BLOCKS,
    "ideogram4": r"^layers.*modulation",
    "kandinsky5": r"visual_modulation",
    "lens": r"_mod\.",
    "lumina2": LAYERS,
    "mage-flow": r"_mod\.",
    "minimax-h3": r"^blocks.*adaln_proj",
    "pixeldit": r"^patch_blocks.*adaLN",
    "qwen-image": r"_mod\.",
    "sd3.5 medium": r"_blocks.*adaLN",
    "z-image": LAYERS,
}
WITH_MORE = ("flux: batch 2, odd size", "flux: ControlNet", "hunyuan-video: guiding frame")
UNLIKE_OTHERS = "joint_blocks.2.context_block.adaLN_modulation.1"  # of SD3, the only one of its shape


def runs_of(rank_sets, name, degrees, mode="persist", compiled=False, adapted=False):
    """Path of each modulation → how often all ranks together computed it."""
    ulysses, ring, cfg = degrees
    answers = rank_sets[ulysses * ring * cfg].run(("modulations", name, degrees, mode, compiled, adapted))
    divided, each = Counter(), Counter()
    for same, *runs, graphs in answers:
        assert same, "bit for bit what a rank gives that computes all"
        assert len(set(graphs)) == 1, "blocks are compiled once for their kind"
        for total, counts in zip((divided, each), runs, strict=True):
            pattern = MODULATIONS[name.split(":")[0]]
            total.update({path: count for path, count in counts.items() if re.search(pattern, path)})
    assert set(each.values()) == {len(answers)}, each
    assert divided.keys() == each.keys()
    return divided


@pytest.mark.parametrize("name", [*(f"{model}: plain" for model in MODULATIONS), *WITH_MORE])
def test_each_is_computed_by_one_of_two_ranks(rank_sets, name):
    runs = runs_of(rank_sets, name, (1, 2, 1) if "batch" in name else (2, 1, 1))
    if name.startswith("sd3"):
        assert runs.pop(UNLIKE_OTHERS) == 2
    assert set(runs.values()) == {1}


def test_where_fewer_are_alike_than_ranks_each_rank_computes_these(rank_sets):
    runs = runs_of(rank_sets, "flux: plain", (3, 1, 1))
    double = [count for path, count in runs.items() if path.startswith("double")]  # text and image: four alike
    single = [count for path, count in runs.items() if path.startswith("single")]
    assert double == [1, 1, 1, 1]
    assert single == [3, 3]


def test_what_gets_another_input_is_not_computed_in_vain(rank_sets):
    """The text of a model call whose references are at timestep zero gets half of the rows."""
    for path, count in runs_of(rank_sets, "qwen-image: edit 2511, timestep zero", (2, 1, 1)).items():
        assert count == (2 if "txt_mod" in path else 1), path


def test_compiled_blocks_get_them_too(rank_sets):
    assert set(runs_of(rank_sets, "flux: plain", (2, 1, 1), compiled=True).values()) == {1}


@pytest.mark.parametrize(
    ("name", "degrees", "how", "runs"),
    [
        ("flux: plain", (2, 1, 2), {}, 2),
        ("flux: plain", (2, 1, 1), {"adapted": True}, 1),
        ("flux: plain", (2, 1, 1), {"mode": "block"}, 2),
        ("auraflow: batch 2, odd size", (2, 1, 1), {}, 2),  # two rows of 128 channels: as cheap as handing them around
    ],
    ids=["two groups for conditions", "LoRA in bypass mode", "block mode", "many rows"],
)
def test_how_often(rank_sets, name, degrees, how, runs):
    assert set(runs_of(rank_sets, name, degrees, **how).values()) == {runs}
