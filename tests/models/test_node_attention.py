"""A node's own attention in planned models: with divided tokens it gives what it gives on one device.

All of them, as in test_model_parity.py, under XDIT_FULL_MATRIX=1.
"""

import pytest
from support.model_matrix import FACTORINGS, FULL, TOLERANCE

from models.cases import CASES

# Its blocks call attention without transformer_options, so that no override reaches it.
WITHOUT_OPTIONS = ("ernie", "pixart", "hunyuan-dit")
GUIDES = "guide frames"
# One for each way in which plans describe attention: joint and by itself, local, keys alone, masks, grids, rows.
TELLING = (
    "flux: plain",
    "boogu: padding mask",
    "cosmos: plain",
    "cosmos-predict2: plain",
    "hunyuan-video: text mask",
    "kandinsky5: plain",
    "lens: padding masks",
    "ltx-2: reference sound",
    "ltxv: text mask",
    "minimax-h3: references with sound",
    "mochi: one text token",
    "omnigen2: two references",
    "qwen-image: padding mask",
    "wan animate: pose and face",
    "wan humo: sound",
    "wan vace: plain",
)
CHOSEN = [name for name in CASES if GUIDES not in name] if FULL else TELLING


def runs():
    for turn, name in enumerate(CHOSEN):
        yield name, *FACTORINGS[turn % len(FACTORINGS)], CASES[name].modes[turn % len(CASES[name].modes)]


@pytest.mark.parametrize(("name", "ulysses", "ring", "mode"), runs())
def test_divided_equals_whole(rank_sets, name, ulysses, ring, mode):
    for error, changed, notes in rank_sets[ulysses * ring].run(("node attention", name, ulysses, ring, mode)):
        assert error <= TOLERANCE
        assert changed > 100 * TOLERANCE or name.startswith(WITHOUT_OPTIONS)
        assert all("attention is not divided: by_place" in note for note in notes)


@pytest.mark.parametrize("name", ["flux: plain", "wan: plain", "ltx-2: plain", "qwen-image: padding mask"])
def test_compiled_equals_whole(rank_sets, name):
    for error, _, _ in rank_sets[2].run(("node attention", name, 2, 1, CASES[name].modes[0], "aot_eager")):
        assert error <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in CASES if GUIDES in name and "removed" not in name])
def test_guide_frames_of_ltx_are_refused(rank_sets, name):
    with pytest.raises(Exception, match="by_place.*with guide frames LTX.*set Parallel Config's ulysses and ring to 1"):
        rank_sets[2].run(("node attention", name, 2, 1, CASES[name].modes[0]))
