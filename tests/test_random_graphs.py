"""Graphs composed by chance: right, or refused by name, and a plain prompt is right after each refusal.

scripts/graphs.py runs five hundred, and each of ComfyUI's patch nodes by itself, and writes docs/custom-nodes.md.
"""

from collections import Counter

import pytest
from support.random_graphs import nodes, packs, page
from support.random_graphs.catalogue import EXCEPTIONS, FITS, FRAME, HELPERS, drawn, listed, role_of, unplaced
from support.random_graphs.plan import by_ranks, plan
from support.random_graphs.report import COUNT, RECORD, Record
from support.random_graphs.run import GOOD, REFUSED, RIGHT, Runner

# On two ranks, not compiled, none that changes ComfyUI's process; together they cover models, degrees, kinds of node.
NUMBERS = (1, 6, 18, 41, 55, 64, 76, 102, 103, 122, 123, 135, 201, 203, 233, 241, 259, 261, 281, 292, 310, 367, 368,
           376, 443)  # fmt: skip
# What went wrong on the commits that the records name, and has to be run again.
GRAPHS_TO_REPEAT: set[int] = set()
NODES_TO_REPEAT: set[tuple[str, str]] = set()


@pytest.fixture
def object_info(client):
    return client.object_info()


def test_some_graphs(comfy, client):
    outcomes = []
    runner = Runner(comfy, client)
    runner.run(by_ranks(list(NUMBERS), runner.object_info), outcomes.append)
    assert [outcome for outcome in outcomes if outcome.verdict not in GOOD] == []
    assert len(outcomes) == len(NUMBERS) == 25
    assert Counter(outcome.verdict for outcome in outcomes)[RIGHT] > 12
    assert all(outcome.error is not None for outcome in outcomes if outcome.verdict == RIGHT)


def test_no_node_is_left_out(object_info):
    """Each of ComfyUI's nodes of these types, and each foreign one, is drawn or in the table of exceptions."""
    assert unplaced(object_info) == []
    assert set(listed(object_info)) == {*drawn(object_info), *EXCEPTIONS, *FRAME, *HELPERS}
    assert {name for name in FITS if not name.startswith("Foreign")} <= set(object_info)
    held = Counter(name for number in range(COUNT) for name in (*_parts(number, object_info),))
    assert set(drawn(object_info)) <= set(held)


def _parts(number, object_info):
    one = plan(number, object_info)
    return (*one.parts, one.samples) if one.samples else one.parts


def test_a_graph_is_the_same_each_time(object_info):
    assert [plan(number, object_info) for number in NUMBERS] == [plan(number, object_info) for number in NUMBERS]
    plans = [plan(number, object_info) for number in NUMBERS]
    assert {"flux", "sd3", "sdxl", "wan", "ltx-2"} <= {one.family for one in plans}
    assert {one.ranks for one in plans} == {2} and not any("compile" in one.config for one in plans)
    assert {role_of(object_info[name]) for name in drawn(object_info)} == {
        "model", "conditioning", "guider", "sampler", "sigmas", "latent", "samples", "after",
    }  # fmt: skip


def test_the_page_tells_what_the_records_hold():
    """How many of the graphs were run stands on the page; what went wrong in them is known, and nothing else did."""
    record, patch_nodes = Record.read(RECORD), nodes.read()
    assert record.outcomes and set(record.outcomes) <= set(range(COUNT))
    assert record.bad_numbers == GRAPHS_TO_REPEAT
    assert nodes.bad_ways(patch_nodes) == NODES_TO_REPEAT
    assert page.PAGE.read_text() == page.render(record, patch_nodes, packs.read())


def test_the_table_holds_patch_nodes_of_this_comfyui(object_info):
    record = nodes.read()
    assert set(record) <= set(nodes.patch_nodes(object_info))
    assert all(set(ways) <= set(nodes.ways_for(name)) for name, ways in record.items())
    verdicts = Counter(outcome.verdict for ways in record.values() for outcome, _ in ways.values())
    assert verdicts[RIGHT] > verdicts[REFUSED] > 0
