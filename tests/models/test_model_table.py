"""docs/models.md names every model and ticks nothing that has no test; docs/models.json holds runs of real cases."""

from collections import defaultdict

import pytest
from support.architectures import architectures
from support.model_matrix import COLUMNS, architecture_of, commands, shown
from support.model_table import TABLE, YES, failures, read_results

from models.cases import CASES

SUPPORTED = architectures()


def rows() -> list[tuple[list[str], list[str]]]:
    """Each line of the tables: the models it names, its other cells."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [(first.split(", "), rest) for first, *rest in cells if first not in ("---", "Models in ComfyUI")]


def test_every_supported_model_has_one_line():
    assert sorted(name for names, _ in rows() for name in names) == sorted(SUPPORTED)


def test_every_tick_has_its_cases():
    shows = defaultdict(set)
    for case in CASES.values():
        shows[architecture_of(case)] |= shown(case)
    for names, cells in rows():
        ticked = {column for column, cell in zip(COLUMNS, cells, strict=False) if cell == YES}
        for name in names:
            assert ticked <= shows[SUPPORTED[name]], name


@pytest.mark.parametrize("name", read_results())
def test_measured_runs_are_those_of_a_case(name):
    assert read_results()[name]["errors"].keys() <= commands(CASES[name]).keys()


def test_no_measured_run_failed():
    assert not failures(read_results())
