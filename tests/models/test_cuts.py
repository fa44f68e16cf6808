"""Where the blocks are cut into chunks: every block in one, and no later end than with chunks of one length."""

import heapq
from itertools import accumulate, pairwise

import pytest
from xdit_comfyui.parallel_backend.sharding.pipeline.stage_cuts import best_cuts, call_time

FLUX = (1.0,) * 57
UNLIKE = tuple(1.0 + (index % 3) * 0.7 for index in range(29))  # work of blocks of several kinds


def simulated(chunks, stages, patches, late):
    """When the last patch leaves the last chunk, from events: a rank takes its runs in order, each when it is there."""
    waiting = [[(c, p) for c in range(stage, len(chunks), stages) for p in range(patches)] for stage in range(stages)]
    here, free = {(0, patch): 0.0 for patch in range(patches)}, [True] * stages
    events, end = [(0.0, "arrived", 0, 0)], 0.0
    while events:
        now, what, chunk, patch = heapq.heappop(events)
        if what == "done":
            end, free[chunk % stages] = now, True
            heapq.heappush(events, (now + late / patches, "arrived", chunk + 1, patch))
        else:
            here.setdefault((chunk, patch), now)
        for stage, runs in enumerate(waiting):
            if runs and free[stage] and here.get(runs[0], now + 1) <= now:
                chunk, patch = runs.pop(0)
                free[stage] = False
                heapq.heappush(events, (now + chunks[chunk] / patches, "done", chunk, patch))
    assert not any(waiting)
    return end


@pytest.mark.parametrize(("stages", "patches"), [(2, 2), (2, 3), (3, 4), (4, 4), (4, 9)])
@pytest.mark.parametrize("late", [0.0, 0.5, 3.0])
def test_the_time_of_a_call_is_what_its_events_take(stages, patches, late):
    chunks = [float(1 + (5 * index) % 4) for index in range(3 * stages)]
    assert call_time(chunks, stages, patches, late) == pytest.approx(simulated(chunks, stages, patches, late))


@pytest.mark.parametrize("work", [FLUX, UNLIKE, (1.0,) * 5])
@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_all_blocks_in_chunks_that_end_no_later_than_even_ones(work, stages, rounds):
    parts = stages * min(rounds, len(work) // stages)
    cuts = best_cuts(work, stages, parts // stages)
    sums = [0.0, *accumulate(work)]
    assert len(cuts) == parts + 1 and cuts[0] == 0 and cuts[-1] == len(work)
    assert all(first < last for first, last in pairwise(cuts))

    def times(cuts):
        chunks = [sums[last] - sums[first] for first, last in pairwise(cuts)]
        return sum(call_time(chunks, stages, patches, 0.5) for patches in (stages + 1, 2 * stages))

    assert times(cuts) <= times([part * len(work) // parts for part in range(parts + 1)])


def test_chunks_at_both_ends_are_short():
    chunks = [last - first for first, last in pairwise(best_cuts(FLUX, 2, 4))]
    assert max(chunks[0], chunks[-1]) <= 5 < min(chunks[1:-1])
    assert sum(FLUX) / call_time(chunks, 2, 3, 0.5) > 1.85 > sum(FLUX) / call_time([7] * 7 + [8], 2, 3, 0.5)


def test_ranks_hold_as_many_blocks_as_each_other():
    for stages in (2, 3, 4):
        chunks = [last - first for first, last in pairwise(best_cuts(FLUX, stages, 4))]
        held = [sum(chunks[stage::stages]) for stage in range(stages)]
        assert max(held) - min(held) <= 2
