"""What the doctor asks of a rank: how fast its links are, and which attention kernels work on its device."""

from __future__ import annotations

import statistics
import time
from itertools import combinations

import torch
import torch.distributed as dist

from ...contract.doctor_messages import Exchanged, Probed
from ...sharding.exchange.collectives import exchange
from ..attention.kernel_trials import kernel_trials

# Bytes that a rank sends in one large exchange, and repeats of it.
LARGE = {"cuda": (64 << 20, 20), "cpu": (4 << 20, 3)}
SMALL, SMALL_REPEATS = 512, 30  # bytes to each peer
ALIGNMENT = 512  # NCCL is three times slower from odd addresses


def probe(request: int, rank: int, device: torch.device) -> Probed:
    """A collective call of all ranks. Raises what a transfer raises."""
    world = dist.get_world_size()
    members: list[tuple[int, ...]] = [*combinations(range(world), 2)]
    if world > 2:
        members.append(tuple(range(world)))
    exchanges = tuple(_measure(ranks, rank, world, device) for ranks in members)
    return Probed(request, rank, tuple(found for found in exchanges if found), kernel_trials(device))


def _measure(ranks: tuple[int, ...], rank: int, world: int, device: torch.device) -> Exchanged | None:
    """The exchange that Ulysses makes, between `ranks` only. The others call it too, with nothing to send."""
    bytes_sent, repeats = LARGE[device.type]
    small = _Transfer(ranks, rank, world, device, SMALL)
    large = _Transfer(ranks, rank, world, device, bytes_sent // (len(ranks) - 1) // ALIGNMENT * ALIGNMENT)
    intact = [small.intact(), large.intact()]  # both are warm from here on
    latency = statistics.median(small.seconds(1) for _ in range(SMALL_REPEATS))
    seconds = large.seconds(repeats)
    intact.append(large.intact())
    if rank not in ranks:
        return None
    return Exchanged(ranks, large.bytes_sent / seconds, latency, all(intact))


class _Transfer:
    """An exchange in which each of `ranks` sends `size` bytes to each other one."""

    def __init__(self, ranks: tuple[int, ...], rank: int, world: int, device: torch.device, size: int):
        peers = set(ranks) - {rank} if rank in ranks else set()
        # A little to itself, so that no rank has equal parts where others have not: those go another way.
        self._sizes = [SMALL if peer == rank else size if peer in peers else 0 for peer in range(world)]
        self.bytes_sent = size * len(peers)
        self._send = self._filled([1 + (rank * world + peer) % 255 for peer in range(world)], device)
        self._expected = self._filled([1 + (peer * world + rank) % 255 for peer in range(world)], device)
        self._device = device

    def intact(self) -> bool:
        """Whether every byte arrives as it was sent."""
        return torch.equal(self._run(), self._expected)

    def seconds(self, repeats: int) -> float:
        """Mean time of one exchange, `repeats` in a row."""
        self._finish()
        started = time.perf_counter()
        for _ in range(repeats):
            self._run()
        self._finish()
        return (time.perf_counter() - started) / repeats

    def _run(self) -> torch.Tensor:
        world = dist.group.WORLD
        assert world is not None, "this rank has not joined its group"
        return exchange(self._send, self._sizes, self._sizes, world)

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _filled(self, values: list[int], device: torch.device) -> torch.Tensor:
        sizes = torch.tensor(self._sizes)
        return torch.tensor(values, dtype=torch.uint8).repeat_interleave(sizes).to(device)
