"""The process groups of sequence parallelism, how tokens are split over them, and the two transfers that it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.distributed as dist

from .written_directly import HeadExchange, RingExchange


@dataclass(frozen=True)
class SequenceGroups:
    """Process groups of one sequence-parallel factorisation, seen from one rank.

    Within the sequence group, rank = ring_rank * ulysses_size + ulysses_rank. A group of one rank is None.
    `ranks` are the global ranks of the sequence group, in that order; `sequence` is the group of all of them.
    `symmetric`: makes the exchanges of the Ulysses group in place of its collectives, where it can be had; `direct`:
    the same for the ring.
    """

    ulysses: dist.ProcessGroup | None
    ulysses_rank: int
    ulysses_size: int
    ring: dist.ProcessGroup | None
    ring_rank: int
    ring_size: int
    ranks: tuple[int, ...]
    sequence: dist.ProcessGroup | None
    symmetric: HeadExchange | None = None
    direct: RingExchange | None = None

    @property
    def rank(self) -> int:
        return self.ring_rank * self.ulysses_size + self.ulysses_rank

    @property
    def size(self) -> int:
        return self.ring_size * self.ulysses_size


@dataclass(frozen=True)
class TokenSplit:
    """How one sequence lies on the sequence ranks: rank r holds `local[r]` tokens, rank 0's first, then rank 1's, …"""

    local: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.local)

    def span(self, first: int, last: int) -> slice:
        """Where the tokens of ranks first … last-1 lie in the whole rank-major sequence."""
        return slice(sum(self.local[:first]), sum(self.local[:last]))

    def chunks(self, size: int) -> "TokenSplit":
        """The same sequence seen in chunks of `size` neighbouring ranks."""
        return TokenSplit(tuple(sum(self.local[i : i + size]) for i in range(0, len(self.local), size)))


def split_evenly(n: int, parts: int) -> tuple[int, ...]:
    """n as `parts` sizes that differ by at most 1, larger ones first."""
    size, rest = divmod(n, parts)
    return tuple(size + (i < rest) for i in range(parts))


def new_sequence_groups(rank_sets: Sequence[Sequence[int]], ulysses: int, ring: int) -> SequenceGroups | None:
    """Make the process groups of ulysses × ring for every set of global ranks.

    Every process of the world calls this with the same arguments; it gets the groups of its own set, or None when it
    is in no set. Process groups stay until the world ends: call this once for each factorisation and keep the result.
    Raises ValueError when a set does not have ulysses × ring ranks.
    """
    me = dist.get_rank()
    mine = None
    for ranks in map(tuple, rank_sets):
        if len(ranks) != ulysses * ring:
            raise ValueError(f"ulysses {ulysses} × ring {ring} needs {ulysses * ring} ranks, got {len(ranks)}: {ranks}")
        sequence = dist.new_group(ranks) if len(ranks) > 1 else None
        rows = [ranks[i : i + ulysses] for i in range(0, len(ranks), ulysses)]
        columns = [ranks[i::ulysses] for i in range(ulysses)]
        ulysses_groups = [_subgroup(row, ranks, sequence) for row in rows]
        ring_groups = [_subgroup(column, ranks, sequence) for column in columns]
        if me in ranks:
            ring_rank, ulysses_rank = divmod(ranks.index(me), ulysses)
            mine = SequenceGroups(
                ulysses=ulysses_groups[ring_rank],
                ulysses_rank=ulysses_rank,
                ulysses_size=ulysses,
                ring=ring_groups[ulysses_rank],
                ring_rank=ring_rank,
                ring_size=ring,
                ranks=ranks,
                sequence=sequence,
            )
    return mine


def _subgroup(part: tuple[int, ...], whole: tuple[int, ...], sequence: dist.ProcessGroup | None):
    if len(part) == 1:
        return None
    return sequence if part == whole else dist.new_group(part)


def gather_numbers(numbers: Sequence[int], size: int, group: dist.ProcessGroup) -> list[tuple[int, ...]]:
    """Every rank's `numbers`, in rank order; as tensors, because objects would be pickled (SECURITY.md)."""
    found = [torch.empty(len(numbers), dtype=torch.int64) for _ in range(size)]
    dist.all_gather(found, torch.tensor(numbers, dtype=torch.int64), group=group)
    return [tuple(one.tolist()) for one in found]


def exchange(
    send: torch.Tensor, send_sizes: Sequence[int], recv_sizes: Sequence[int], group: dist.ProcessGroup | None
) -> torch.Tensor:
    """All-to-all of one flat tensor: piece i (send_sizes[i] elements) goes to rank i of the group.

    Returns the received pieces in rank order as one flat tensor of sum(recv_sizes) elements. Sizes may differ and be 0.
    Raises ValueError for the group of one rank, None.
    """
    recv = send.new_empty(sum(recv_sizes))
    even = len({*send_sizes, *recv_sizes}) == 1
    sizes = ([], []) if even else (list(recv_sizes), list(send_sizes))
    # The group's own method: dist.all_to_all_single checks and logs each of more than a hundred calls a step.
    _of_several(group).alltoall_base(recv, send, *sizes, dist.AllToAllOptions()).wait()
    return recv


def start_shift(send: torch.Tensor, recv: torch.Tensor, group: dist.ProcessGroup | None) -> list[dist.Work]:
    """Start sending `send` (contiguous) to the next rank of the group and filling `recv` from the previous one.

    Both directions are posted as one batch, so no order of ranks can lock up. Neither tensor may be written, nor
    `recv` read, before every returned work was waited for. Raises ValueError for the group of one rank, None.
    """
    group = _of_several(group)
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    following = dist.get_global_rank(group, (rank + 1) % size)
    previous = dist.get_global_rank(group, (rank - 1) % size)
    return dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, send, following, group), dist.P2POp(dist.irecv, recv, previous, group)]
    )


def _of_several(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    if group is None:
        raise ValueError("a rank that is alone in its group has nobody to exchange with")
    return group


def offsets(sizes: Sequence[int]) -> list[int]:
    """Where each piece starts: offsets((3, 2, 2)) == [0, 3, 5]."""
    return list(accumulate(sizes, initial=0))[:-1]
