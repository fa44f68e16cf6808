"""Models whose weights are divided over real processes give what they give with whole weights, and hold a share."""

import pytest
from support.model_matrix import FULL, TOLERANCE
from support.quantised import FORMATS
from support.tiny_models import ModelShelf
from support.weights_side import Figures

from models.cases import CASES

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


@pytest.mark.parametrize(
    ("name", "cfg", "batch", "counts", "more", "evaluated"),
    [
        ("flux: plain", 2, 1, (1, 1), {}, [2, 2]),
        ("sd3: plain", 2, 1, (3, 1), {"offload": True}, [6, 2]),  # areas
        ("wan: plain", 2, 1, (1, 1, 2), {}, [6, 2]),
        ("flux: plain", 3, 1, (2, 1), {}, [4, 2, 0]),
        ("wan: plain", 1, 2, (2,), {"offload": True}, [2, 2]),
        ("flux: plain", 1, 3, (1, 0, 1), {}, [2, 2, 0]),
        ("sd3: plain", 2, 2, (1, 2, 1), {}, [2, 2, 2, 2]),
        ("omnigen2: two references", 2, 1, (1, 1), {"lacking": "ref_latents"}, [2, 2]),  # other blocks
        ("flux: plain", 2, 1, (2, 2), {"idle": 1}, [4, 0]),
    ],
)
def test_divided_over_groups_that_run_the_model_unequally_often(rank_sets, name, cfg, batch, counts, more, evaluated):
    more = {"offload": False, "lacking": "", "idle": -1, **more}
    answers = rank_sets[cfg * batch].run(("over groups", name, cfg, batch, counts, *more.values()))
    for error, same, _ in answers:
        assert same, "bit for bit what whole weights give"
        assert error <= TOLERANCE or more["idle"] >= 0
    assert [seen for _, _, seen in answers] == evaluated


@pytest.mark.parametrize(("cfg", "batch", "place"), [(2, 1, "block"), (1, 2, "block"), (2, 2, "block"), (2, 2, "rows")])
def test_a_group_that_fails_ends_the_call_everywhere(rank_sets, cfg, batch, place):
    answers = rank_sets[cfg * batch].run(("one group fails", "flux: plain", cfg, batch, 1, place))
    assert answers.pop(1) == ("ValueError: this rank fell over", True)
    assert all("PeerFailed: a rank with other conditions" in raised and right for raised, right in answers)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return ModelShelf(tmp_path_factory.mktemp("divided"))


@pytest.mark.parametrize(
    ("kind", "size", "axis"), [(kind, 2 + i % 2, ("ulysses", "cfg", "batch")[i % 3]) for i, kind in enumerate(FORMATS)]
)
def test_files_with_a_lora_that_comes_changes_and_goes(rank_sets, shelf, kind, size, axis):
    file = shelf.models / "diffusion_models" / shelf.quantised_flux(kind)
    lora = shelf.models / "loras" / shelf.flux_lora()
    weights = ("shard", "shard + offload")[size % 2]
    for outputs, same, figures in rank_sets[size].run(("files", str(file), str(lora), axis, size, weights)):
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
