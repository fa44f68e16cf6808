"""In how many parts a request flows through the stages, and when it is computed exactly instead."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..plan.patch_lengths import most_patches

PATCH_TOKENS = 1024  # a patch much smaller leaves a large GPU idle within its kernels
MOST_PATCHES = 8
SHORT_WAIT = 1 / 12  # of what a rank computes: less is not worth more and smaller patches (benchmarks/NOTES.md)


@dataclass
class Schedule:
    """`patches` (0: by size), `warmup` steps computed exactly, out of `steps` (None: not known, then evaluations are
    counted). `exact`: why every call must be computed exactly, or "". `done`: steps so far.
    """

    patches: int
    warmup: int
    steps: int | None = None
    exact: str = ""
    done: int = 0

    @property
    def always_exact(self) -> bool:
        return self.steps is not None and self.warmup >= self.steps

    def warming(self, calls: int) -> bool:
        """Whether a model call is exact, before which these conditions had `calls`."""
        return calls < self.warmup if self.steps is None else self.done < self.warmup

    def choose(
        self, streams: tuple[int, ...], stages: int, chunks: int, ranks: int, note: Callable[[str], None]
    ) -> int:
        """The number of patches for streams of these lengths, the image last, on `stages` of `ranks` each, which own
        `chunks` of blocks.

        With M patches a rank waits (stages - 1) / (chunks * M) of the time that it computes, at most.
        """
        enough = math.ceil((stages - 1) / (chunks * SHORT_WAIT))
        wanted = self.patches or max(stages, min(enough, MOST_PATCHES, max(streams) // PATCH_TOKENS))
        possible = most_patches(streams, wanted, ranks)
        if possible < wanted:
            note(f"{possible} patches instead of {wanted}: the shortest stream has {min(streams)} tokens")
        return possible
