"""How many tokens of each stream are in which patch.

Streams beside the longest (a prompt) go whole into the first patch, and the longest fills up the patches so that all
have as many tokens: a block with weights for each stream reads those of the short ones once, and what is in the first
patch is never stale. Where the short streams leave the first patch too little of the longest, every stream is cut
evenly.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..collectives import split_evenly


def patch_lengths(streams: Sequence[int], patches: int, ranks: int) -> list[tuple[int, ...]]:
    """For streams of these lengths, cut into `patches` over `ranks` each: the lengths of every stream's parts."""
    of_longest = _beside_whole_streams(streams, patches)
    if min(of_longest) < ranks:
        return [split_evenly(length, patches) for length in streams]
    longest = streams.index(max(streams))
    return [
        of_longest if number == longest else (length, *[0] * (patches - 1)) for number, length in enumerate(streams)
    ]


def most_patches(streams: Sequence[int], wanted: int, ranks: int) -> int:
    """The largest number of patches, `wanted` at most, that gives each of `ranks` tokens of every stream in a patch."""
    shortest = min(streams)
    if shortest < ranks:
        return 1
    return max(
        patches
        for patches in range(1, wanted + 1)
        if patches * ranks <= shortest or min(_beside_whole_streams(streams, patches)) >= ranks
    )


def _beside_whole_streams(streams: Sequence[int], patches: int) -> tuple[int, ...]:
    """What patches of one size hold of the longest stream, with all of the others in the first; below 0 at worst."""
    total = sum(streams)
    first, *later = split_evenly(total, patches)
    return first - (total - max(streams)), *later
