"""Models whose weights are divided over real processes give what they give with whole weights, and hold a share."""

import os

import pytest
from support.model_matrix import TOLERANCE
from support.quantised import FORMATS
from support.tiny_models import ModelShelf
from support.weights_side import Figures

from models.cases import CASES

FULL = os.environ.get("XDIT_FULL_MATRIX") == "1"
CHOSEN = (
    "flux: plain",
    "flux2: timestep zero references",
    "hidream: plain",
    "qwen-image: padding mask",
    "wan vace: plain",
)
SPLITS = ((2, 1), (1, 2), (3, 1), (2, 1), (2, 2))


@pytest.mark.parametrize(
    ("name", "split", "offload"),
    [(name, SPLITS[i % len(SPLITS)], i % 2 == 1) for i, name in enumerate(CASES if FULL else CHOSEN)],
)
def test_divided_equals_whole(rank_sets, name, split, offload):
    for error, same, inside in rank_sets[split[0] * split[1]].run(("divided", name, *split, offload)):
        assert error <= TOLERANCE
        assert same, "bit for bit what replicated weights give"
        assert inside == [], "between calls a block holds nothing"


@pytest.mark.parametrize("name", ["flux: plain", "wan: plain"])
def test_what_was_compiled_serves_divided_weights(rank_sets, name):
    for error, compiled, more, notes in rank_sets[2].run(("compiled and divided", name, 2)):
        assert error <= TOLERANCE
        assert compiled > 0
        assert more == 0
        assert notes == []


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return ModelShelf(tmp_path_factory.mktemp("divided"))


@pytest.mark.parametrize(("kind", "size"), [(kind, 2 + i % 2) for i, kind in enumerate(FORMATS)])
def test_files_with_a_lora_that_comes_changes_and_goes(rank_sets, shelf, kind, size):
    file = shelf.models / "diffusion_models" / shelf.quantised_flux(kind)
    lora = shelf.models / "loras" / shelf.flux_lora()
    weights = ("shard", "shard + offload")[size % 2]
    for outputs, same, figures in rank_sets[size].run(("files", str(file), str(lora), size, weights)):
        assert all(same)
        assert min((outputs[1] - outputs[0]).norm(), (outputs[2] - outputs[1]).norm()) > 0.05 * outputs[0].norm()
        assert (outputs[3] == outputs[0]).all()
        assert_share(figures, size, weights)


def assert_share(figures: Figures, size: int, weights: str) -> None:
    """A share, two blocks (in use, prefetched) and what stays whole; the share not on the device when offloaded."""
    cut, rest = figures.divided / size, figures.replicated - figures.divided
    assert figures.allocated == pytest.approx(cut + 2 * figures.largest + rest, rel=0.1)
    expected = 2 * figures.largest + rest + (cut if weights == "shard" else 0)
    assert figures.held == pytest.approx(expected, rel=0.1)
