"""PipeFusion equals one device that applies the same staleness, and unsharded sampling as long as it warms up."""

import pytest
from support.model_matrix import FULL, TOLERANCE

STEPS = 3
JOINT, ODD, REFERENCES, LONG_TEXT = {87: (33, 54)}, {42: (7, 35)}, {113: (33, 80)}, {96: (80, 16)}
# Case → the segments of each of its attentions over all tokens, by their number of tokens.
CASES = {
    "flux: plain": JOINT,
    "flux: batch 2, odd size": ODD,
    "flux: more text than image": LONG_TEXT,
    "flux: attention mask": JOINT,
    "flux: ControlNet": JOINT,
    "flux: reference latents": REFERENCES,
    "flux2: plain": {249: (33, 216)},
    "flux2: timestep zero references": {353: (33, 320)},
    "chroma: plain": JOINT,
    "chroma: ControlNet and attention mask": JOINT,
    "sd3: plain": JOINT,
    "sd3: ControlNet": JOINT,
    "sd3.5 medium: plain": JOINT | {54: (54,)},
    "sd3.5 medium: batch 2, odd size": ODD | {35: (35,)},
    "sd3.5 medium: more text than image": LONG_TEXT | {16: (16,)},
    "qwen-image: plain": JOINT,
    "qwen-image: batch 2, odd size": ODD,
    "qwen-image: padding mask": JOINT,
    "qwen-image: padding mask, few tokens": {16: (2, 14)},
    "qwen-image: ControlNet": JOINT,
    "qwen-image: edit, two references": REFERENCES,
    "qwen-image: edit 2511, timestep zero": REFERENCES,
    "lumina2: plain": {87: (87,)},
    "lumina2: batch 2, odd size": {42: (42,)},
    "z-image: plain": {128: (128,)},
    "z-image: batch 2, odd size": {96: (96,)},
    "z-image: references": {288: (288,)},
    "wan: plain": {45: (45,)},
    "wan: batch 2, odd size": {24: (24,)},
    "wan: per-frame timesteps (2.2 5B)": {45: (45,)},
    "wan: image to video": {45: (45,)},
    "wan camera: plain": {45: (45,)},
}
TWO_BLOCKS = ("qwen-image", "lumina2", "z-image", "wan")  # no more stages than that
# (stages, ulysses, patches, warm-up steps)
SETTINGS = ((2, 1, 4, 1), (2, 2, 3, 1), (3, 1, 5, 2), (2, 1, 7, 0), (4, 1, 2, 1))


def pairwise():
    turn = 0
    for name in CASES:
        possible = [one for one in SETTINGS if one[0] <= _most_stages(name)]
        for setting in possible if FULL else (possible[turn % len(possible)],):
            yield name, *setting
        turn += 1


def _most_stages(name: str) -> int:
    return 2 if name.startswith(TWO_BLOCKS) else 3 if name.startswith("sd3") else 4


@pytest.mark.parametrize(("name", "stages", "ulysses", "patches", "warmup"), pairwise())
def test_equals_one_device_with_the_same_staleness(rank_sets, name, stages, ulysses, patches, warmup):
    answers = rank_sets[stages * ulysses].run(("pipeline", name, stages, ulysses, patches, warmup, STEPS, CASES[name]))
    assert max(stale for stale, _, _ in answers) <= TOLERANCE, answers
    assert min(exact for _, exact, _ in answers) > 10 * TOLERANCE, "nothing was stale"
    assert all(notes == [] for _, _, notes in answers)


@pytest.mark.parametrize(
    ("name", "ulysses", "patches", "compiled"),
    [
        ("flux: attention mask", 2, 2, False),
        ("flux: ControlNet", 1, 2, True),
        ("flux2: timestep zero references", 2, 4, False),
        ("chroma: ControlNet and attention mask", 1, 2, False),
        ("sd3: ControlNet", 2, 2, False),
        ("sd3.5 medium: batch 2, odd size", 2, 4, False),
        ("qwen-image: padding mask", 2, 2, False),
        ("qwen-image: padding mask, few tokens", 2, 5, False),  # with one token of the image on a rank
        ("qwen-image: edit 2511, timestep zero", 1, 3, False),
    ],
)
def test_text_is_in_the_first_patch(rank_sets, name, ulysses, patches, compiled):
    answers = rank_sets[2 * ulysses].run(("pipeline", name, 2, ulysses, patches, 1, STEPS, CASES[name], compiled))
    assert max(stale for stale, _, _ in answers) <= TOLERANCE, answers
    assert min(exact for _, exact, _ in answers) > 10 * TOLERANCE, "nothing was stale"
    assert all(notes == [] for _, _, notes in answers)


@pytest.mark.parametrize(("name", "stages"), [("flux: plain", 2), ("sd3.5 medium: batch 2, odd size", 3)])
def test_the_way_of_hidden_states_changes_nothing(rank_sets, name, stages):
    """Through host memory, or through the process group where one rank cannot map it: all say so."""
    answers = rank_sets[stages].run(("through", name, stages, 3))
    for same, (through_memory, otherwise), (quiet, notes) in answers:
        assert same and through_memory > 0 and otherwise == 0 and quiet == []
        assert len(notes) == 1 and "hidden states go through the process group" in notes[0], notes


@pytest.mark.parametrize(
    ("name", "stages", "ulysses"),
    [
        ("flux: ControlNet", 3, 1),
        ("flux: batch 2, odd size", 2, 2),
        ("sd3.5 medium: plain", 3, 1),
        ("qwen-image: padding mask", 2, 2),
        ("z-image: plain", 2, 1),
        ("wan: image to video", 2, 2),
    ],
)
def test_warming_up_for_all_steps_is_exact(rank_sets, name, stages, ulysses):
    answers = rank_sets[stages * ulysses].run(("pipeline", name, stages, ulysses, 4, STEPS, STEPS, CASES[name]))
    assert max(exact for _, exact, _ in answers) <= TOLERANCE, answers


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("flux: NAG", "'attn1_output_patch' looks at whole tokens"),
        ("wan: patches after attention", "looks at whole tokens"),
        ("z-image: ControlNet", "whole tokens between the blocks"),
    ],
)
def test_patches_that_want_whole_tokens_are_exact_and_said(rank_sets, name, why):
    for ulysses in (1, 2):
        answers = rank_sets[2 * ulysses].run(("pipeline", name, 2, ulysses, 4, 0, STEPS, {}))
        assert max(exact for _, exact, _ in answers) <= TOLERANCE, answers
        assert all(why in notes[0] for _, _, notes in answers), answers


def test_fewer_tokens_than_patches(rank_sets):
    answers = rank_sets[2].run(("pipeline", "qwen-image: batch 2, odd size", 2, 1, 7, 1, STEPS, ODD))
    assert max(stale for stale, _, _ in answers) <= TOLERANCE, answers
    answers = rank_sets[2].run(("pipeline", "qwen-image: batch 2, odd size", 2, 1, 16, 1, STEPS, {}))
    assert answers[0][2] == ["7 patches instead of 16: the shortest stream has 7 tokens"]


def test_a_replaced_block_is_refused(rank_sets):
    with pytest.raises(RuntimeError, match="replaces blocks of the model .* set pipefusion to 1"):
        rank_sets[2].run(("pipeline", "sd3: skipped layer", 2, 1, 4, 1, STEPS, {}))


def test_more_stages_than_blocks_are_refused(rank_sets):
    with pytest.raises(RuntimeError, match="4 stages need as many blocks, this model has 2"):
        rank_sets[4].run(("pipeline", "wan: plain", 4, 1, 4, 1, STEPS, {}))
