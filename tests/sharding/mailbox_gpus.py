"""One of two ranks, each on a GPU of its own, that hand values to each other through mailboxes while they compute.

`mailbox_gpus.py RANK STORE`; prints what was held against what, and fails where something came that was not sent.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

TESTS = Path(__file__).resolve().parents[1]
PATCHES, ROUNDS, TOKENS, WIDTH = 3, 4, 256, 1024  # a patch has as many tokens
EAGER_CALLS, REPLAYS = 5, 50
PLACE = 0
TYPES = (torch.float32, torch.bfloat16, torch.float16)


class Rank:
    def __init__(self, rank: int):
        from xdit_comfyui.parallel_backend.sharding.transfer.stage_links import new_pipe

        self._rank = rank
        self._device = torch.device("cuda", rank)
        self._pipe = new_pipe(2, 1, 2, self._device)
        self._weight = torch.randn(WIDTH, WIDTH, device=self._device) / WIDTH**0.5
        self._sent: list[torch.Tensor] = []
        self._arrived: list[torch.Tensor] = []

    def set_up(self) -> None:
        self._exact(PATCHES * TOKENS)
        assert self._pipe.mailboxes.generation == 1

    def grow(self) -> None:
        """More memory in the place of the old, which a graph does not survive."""
        self._exact(3 * PATCHES * TOKENS)
        assert self._pipe.mailboxes.generation == 2

    def _exact(self, tokens: int) -> None:
        """A hand-over of so many tokens each way, as in an exact call, and what follows it. One rank sends first: the
        groups of NCCL begin in that order.
        """
        values = self._values(torch.randn(1, tokens, WIDTH, device=self._device), last=True)
        steps = [lambda: self._pipe.after.send(values, None), lambda: self._hear(values)]
        for step in steps if self._rank == 0 else reversed(steps):
            step()
        self._pipe.after.finish()
        notes = []
        self._pipe.mailboxes.agree(len(TYPES) * tokens, len(TYPES), notes.append)
        assert notes == [] and self._pipe.after.mailbox is not None and self._pipe.before.mailbox is not None, notes

    def _hear(self, values: list[torch.Tensor]) -> None:
        self._pipe.before.hear(PLACE, len(values))
        self._pipe.before.post(PLACE, [tuple(value.shape) for value in values], None)
        self._pipe.before.take()

    def _values(self, value: torch.Tensor, last: bool) -> list[torch.Tensor]:
        """[1, L, C] in every type; of the last type no tokens except in the last patch."""
        values = [value.to(dtype) for dtype in TYPES]
        return values if last else [*values[:-1], values[-1][:, :0]]

    def call(self, latent: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What this rank sent and what came, in order. Each patch of a round is made of what came in the round before;
        kernels run between all transfers, and buffers wait for two patches at once.
        """
        before, after = self._pipe.before, self._pipe.after
        sent, arrived = [], []
        for way in (before, after):
            way.begin()
        patches = list(latent.unbind())
        busy = latent[0]
        for _ in range(ROUNDS):
            for number in range(PATCHES + 1):
                if number < PATCHES:
                    values = self._values(torch.tanh(patches[number] @ self._weight), number == PATCHES - 1)
                    after.send(values, (number, PATCHES))
                    before.post(PLACE, [tuple(value.shape) for value in values], (number, PATCHES))
                    sent += values
                busy = torch.tanh(busy @ self._weight)
                if number > 0:
                    values = before.take()
                    patches[number - 1] = values[0] + 0.1 * busy
                    arrived += values
        for way in (before, after):
            way.finish()
        return [value.clone() for value in sent], [value.clone() for value in arrived]

    def eager(self) -> None:
        for _ in range(EAGER_CALLS):
            self._keep(*self.call(self._latent()))
        self._compare("eager calls", EAGER_CALLS)

    def replayed(self) -> None:
        """Without a wait between the replays: the flags alone keep the two ranks in order."""
        from xdit_comfyui.parallel_backend.sharding.exchange import collective_counts

        latent, graph = self._latent(), torch.cuda.CUDAGraph()
        before = sum(collective_counts.begun().values())
        with collective_counts.captured() as begun, torch.cuda.graph(graph, capture_error_mode="thread_local"):
            sent, arrived = self.call(latent)
        assert sum(collective_counts.begun().values()) == before, "a capture begins nothing"
        assert sorted(begun.values()) == [PATCHES * ROUNDS] * 2, begun
        for _ in range(REPLAYS):
            latent.copy_(self._latent())
            collective_counts.replayed(begun)
            graph.replay()
            self._keep([value.clone() for value in sent], [value.clone() for value in arrived])
        self._compare("replays", REPLAYS)

    def _latent(self) -> torch.Tensor:
        return torch.randn(PATCHES, 1, TOKENS, WIDTH, device=self._device)

    def _keep(self, sent: list[torch.Tensor], arrived: list[torch.Tensor]) -> None:
        self._sent += sent
        self._arrived += arrived

    def _compare(self, what: str, calls: int) -> None:
        """By a checksum of every value's bits, which the ranks tell each other."""
        sent, arrived = (
            torch.stack([_checksum(value) for value in kept]).cpu() for kept in (self._sent, self._arrived)
        )
        expected = torch.empty_like(sent)
        requests = [dist.isend(sent, 1 - self._rank), dist.irecv(expected, 1 - self._rank)]
        for request in requests:
            request.wait()
        assert len(sent) == calls * ROUNDS * PATCHES * len(TYPES)
        assert len(sent.unique()) > len(sent) / 2, "the inputs did not change"
        assert torch.equal(arrived, expected), f"{(arrived != expected).sum()} of {len(arrived)} values are wrong"
        self._sent.clear()
        self._arrived.clear()
        print(f"rank {self._rank}: {len(sent)} values of {calls} {what} are what was sent", flush=True)


def _checksum(value: torch.Tensor) -> torch.Tensor:
    """An int64 that any changed or moved element changes."""
    bits = value.contiguous().view(torch.int16 if value.itemsize == 2 else torch.int32).flatten().long()
    places = torch.arange(1, bits.numel() + 1, device=value.device)
    return (bits * places).sum()


def main() -> None:
    rank, store = int(sys.argv[1]), sys.argv[2]
    sys.path[:1] = [str(TESTS)]
    from support.rank_origin import make_pack_importable

    make_pack_importable()
    torch.cuda.set_device(rank)
    torch.manual_seed(rank)
    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    with torch.inference_mode():
        one = Rank(rank)
        one.set_up()
        one.eager()
        one.replayed()
        one.grow()
        one.eager()
        one.replayed()
    dist.barrier(dist.new_group(backend="gloo"))
    sys.stdout.flush()
    os._exit(0)  # without waiting for NCCL's own end


if __name__ == "__main__":
    main()
