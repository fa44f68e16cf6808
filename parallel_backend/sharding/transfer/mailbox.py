"""Hidden states through host memory that the two ranks of a link share, moved by the GPUs' copy engines.

A transfer of NCCL holds multiprocessors on both GPUs while it runs and while it waits. FlashAttention 3 and cuBLAS
start as many thread blocks as there are multiprocessors, so what overlaps with a transfer takes up to twice as long.
Here nothing takes a multiprocessor: a stream waits for a flag, copies, and writes the flag.

    page of flags, one for each slot | slot 0 | slot 1 | …

A slot holds one patch: the values of one hand-over one after the other, and its flag says which end has its turn.

    flag    who     waits for it, then                      and makes it
    EMPTY   sender  copies from its device into the slot    FULL
    FULL    receiver copies from the slot to its device     EMPTY

All flags are EMPTY after each model call, so a CUDA graph can repeat the same. There are as many slots as patches: a
stage that has made a patch in one round has been given that patch by the stage before, all the way round, so the slot
is empty again. With fewer slots a sender could wait for a receiver that waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...contract.config import MAX_PATCHES
from ..exchange import collective_counts
from ..plan.errors import ShardingError
from .shared_memory import Arena
from .stream_values import SPACING, Values

FLAG_BYTES = 4096
ALIGNMENT = 256  # bytes
EMPTY, FULL = 0, 1
VALUES = 4  # of one hand-over, at most
UNEVEN = 3  # tokens of each stream that a patch may have more than its share of all, see `data_bytes`

assert MAX_PATCHES * SPACING <= FLAG_BYTES


def data_bytes(tokens: int, streams: int, bytes_of_token: int) -> int:
    """How much room for data a mailbox needs for hand-overs of `tokens` (those of `streams` streams together), however
    many patches they are cut into.

    With M patches over P ranks, a rank that has t of all tokens has t / M of them in a patch, and of each stream at
    most one more for the cut into patches, one for the cut over ranks, and one for that of t.
    """
    of_patch = ALIGNMENT * (VALUES + 1) + UNEVEN * streams * bytes_of_token
    return tokens * bytes_of_token + MAX_PATCHES * of_patch


class Mailbox:
    """One link's memory, seen from either end. Both calls act on the current stream of a GPU, or at once on a CPU.

    `counted`: the name under which hand-overs count, as counts.beside gave it.
    """

    def __init__(self, arena: Arena, flags: Values, counted: str):
        self.arena = arena
        self._data = arena.memory[FLAG_BYTES:]
        self._flags = flags
        self._counted = counted

    def put(self, values: Sequence[torch.Tensor], patch: tuple[int, int]) -> None:
        """Contiguous values of `patch`: its number, and the number of patches. Raises ShardingError if they are larger
        than a slot.
        """
        places = self._places(values, patch)
        collective_counts.count(self._counted)
        self._flags.wait(patch[0], EMPTY)
        for place, value in zip(places, values, strict=True):
            place.copy_(value, non_blocking=True)
        self._flags.write(patch[0], FULL)

    def get(self, buffers: Sequence[torch.Tensor], patch: tuple[int, int]) -> None:
        """Fills `buffers`, which have the shapes and types of what the other end puts. Raises as `put`."""
        places = self._places(buffers, patch)
        collective_counts.count(self._counted)
        self._flags.wait(patch[0], FULL)
        for place, buffer in zip(places, buffers, strict=True):
            buffer.copy_(place, non_blocking=True)
        self._flags.write(patch[0], EMPTY)

    def try_out(self, slot: int) -> None:
        """Write and wait as a hand-over does, of nothing, while nobody else uses the slot."""
        for state in (FULL, EMPTY):
            self._flags.write(slot, state)
            self._flags.wait(slot, state)

    def _places(self, values: Sequence[torch.Tensor], patch: tuple[int, int]) -> list[torch.Tensor]:
        """The part of the slot for each value, in its shape and type."""
        number, patches = patch
        starts, needed = _packed(values)
        room = self._data.numel() // patches // ALIGNMENT * ALIGNMENT
        if needed > room:
            raise ShardingError(
                f"a hand-over of PipeFusion has {needed} bytes, and a patch of {patches} has room for {room};"
                " report it, and set pipefusion to 1"
            )
        slot = self._data[number * room : (number + 1) * room]
        return [
            slot[start : start + value.nbytes].view(value.dtype).view(value.shape) if value.numel() else value
            for start, value in zip(starts, values, strict=True)
        ]


def _packed(values: Sequence[torch.Tensor]) -> tuple[list[int], int]:
    """Where each value starts in a slot, and the end of all."""
    starts, end = [], 0
    for value in values:
        starts.append(end)
        end += -(-value.nbytes // ALIGNMENT) * ALIGNMENT
    return starts, end
