"""How many tokens of each stream are in which patch.

Streams beside the image (a prompt) go whole into the first patch, and the image fills up the patches so that all have
as many tokens: a block with weights for each stream reads those of the other streams once, and what is in the first
patch is never stale. Where they leave the first patch too little of the image, every stream is cut evenly.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..exchange.collectives import split_evenly


def patch_lengths(streams: Sequence[int], patches: int, ranks: int) -> list[tuple[int, ...]]:
    """For streams of these lengths, the image last, cut into `patches` over `ranks` each: how many tokens of each
    stream every patch has.
    """
    of_image = _beside_whole_streams(streams, patches)
    if min(of_image) < ranks:
        return [split_evenly(length, patches) for length in streams]
    return [*((length, *[0] * (patches - 1)) for length in streams[:-1]), of_image]


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
    """What patches of one size hold of the image, with all other streams in the first; below 0 at worst."""
    first, *later = split_evenly(sum(streams), patches)
    return first - sum(streams[:-1]), *later
