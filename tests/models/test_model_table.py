"""docs/models.md names every model and ticks nothing that has no test; docs/models.json holds runs of real cases."""

import re
from collections import defaultdict

import comfyui_version
import pytest
from support.architectures import architectures
from support.model_matrix import COLUMNS, architecture_of, commands, shown
from support.model_table import TABLE, YES, failures, read_results
from xdit_comfyui.parallel_backend.sharding.plans.unsharded import LATER

from models.cases import CASES

SUPPORTED = architectures()
MADE_WITH = re.search(r"with ComfyUI ([\d.]+),", TABLE.read_text())[1]
FROM_LATER = re.compile(r" \(from ComfyUI [\d.]+\)$")


def rows() -> list[tuple[list[str], list[str]]]:
    """Each line of the tables: the models it names, its other cells."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [(first.split(", "), rest) for first, *rest in cells if first not in ("---", "Models in ComfyUI")]


def test_every_supported_model_has_one_line():
    """Of the ComfyUI that the page was made with; the models of later ones are those of the list."""
    lines = [name for names, _ in rows() for name in names]
    later = [FROM_LATER.sub("", name) for name in lines if FROM_LATER.search(name)]
    assert sorted(later) == sorted(name for _, names in LATER.values() for name in names)
    if MADE_WITH == comfyui_version.__version__:
        assert sorted(name for name in lines if not FROM_LATER.search(name)) == sorted(SUPPORTED)


def test_every_tick_has_its_cases():
    shows = defaultdict(set)
    for case in CASES.values():
        shows[architecture_of(case)] |= shown(case)
    for names, cells in rows():
        ticked = {column for column, cell in zip(COLUMNS, cells, strict=False) if cell == YES}
        for name in names:
            assert ticked <= shows[SUPPORTED.get(name)], name


@pytest.mark.parametrize("name", read_results())
def test_measured_runs_are_those_of_a_case(name):
    assert read_results()[name]["errors"].keys() <= commands(CASES[name]).keys()


def test_no_measured_run_failed():
    assert not failures(read_results())
