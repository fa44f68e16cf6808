"""Where a row of blocks is cut into the chunks of interleaved stages (arXiv 2104.04473), so that a call ends soonest.

All ranks but the first wait until the first patch reaches them, and all but the last have nothing to do once their last
patch has left; so the best chunks are short at both ends. How long a call takes follows from the order in which each
rank runs its chunks and patches.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

SHORT_ENDS = (1.0, 0.6, 0.3)  # chunks at both ends beside the others: where the search begins
HAND_OVER = 0.5  # of the time that a block takes for a patch, on average: until the next rank has it


@functools.lru_cache(maxsize=32)
def best_cuts(work: tuple[float, ...], stages: int, rounds: int) -> tuple[int, ...]:
    """Chunk c has blocks cuts[c] … cuts[c + 1] - 1 and belongs to stage c mod `stages`; `rounds` chunks each.

    work: of each block, at least stages · rounds of them. The same on every rank that asks.

    From cuts at several lengths of the ends on, neighbouring cuts move by a block together as long as that is better.
    """
    sums = [0.0, *accumulate(work)]
    late = HAND_OVER * sums[-1] / len(work)

    def cost(cuts: tuple[int, ...]) -> tuple[float, float]:
        chunks = [sums[last] - sums[first] for first, last in pairwise(cuts)]
        return sum(call_time(chunks, stages, patches, late) for patches in (stages + 1, 2 * stages)), max(chunks)

    found = []
    for ends in SHORT_ENDS:
        cuts = _cuts(len(work), stages, rounds, ends)
        while cost(best := min(_moved(cuts), key=cost, default=cuts)) < cost(cuts):
            cuts = best
        found.append(cuts)
    return min(found, key=cost)


def call_time(chunks: Sequence[float], stages: int, patches: int, late: float = 0.0) -> float:
    """Of a call in `patches` with this work in each chunk. late: how long the work of one whole sequence would take in
    the time that a patch of it takes to the next rank.
    """
    arrived, busy_until = [0.0] * patches, [0.0] * stages
    for number, work in enumerate(chunks):
        time = busy_until[number % stages]
        for patch in range(patches):
            time = max(time, arrived[patch]) + work / patches
            arrived[patch] = time + late / patches
        busy_until[number % stages] = time
    return max(busy_until)


def _cuts(blocks: int, stages: int, rounds: int, ends: float) -> tuple[int, ...]:
    parts, short = stages * rounds, stages - 1
    shares = [ends if min(part, parts - 1 - part) < short else 1.0 for part in range(parts)]
    *_, whole = sums = list(accumulate(shares, initial=0.0))
    cuts = [round(blocks * share / whole) for share in sums]
    for part in range(1, parts):
        cuts[part] = max(cuts[part], cuts[part - 1] + 1)
    for part in range(parts - 1, 0, -1):
        cuts[part] = min(cuts[part], cuts[part + 1] - 1)
    return tuple(cuts)


def _moved(cuts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """With each run of neighbouring cuts a block later, or sooner, where every chunk keeps a block."""
    for first in range(1, len(cuts) - 1):
        for last in range(first, len(cuts) - 1):
            for step in (-1, 1):
                moved = (*cuts[:first], *(cut + step for cut in cuts[first : last + 1]), *cuts[last + 1 :])
                if moved[first - 1] < moved[first] and moved[last] < moved[last + 1]:
                    yield moved
