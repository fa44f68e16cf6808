"""What a rank does to compare the exchange through symmetric memory with the one through collectives."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import torch
import torch.distributed as dist

from .shared_files import in_shared_files


class SymmetricSide:
    """Answers ("compare", tokens, heads, batch), ("many", exchanges) and ("counted",)."""

    @staticmethod
    def prepare() -> None:
        from xdit_comfyui.parallel_backend.sharding.attention import symmetric_exchange, ulysses  # noqa: F401

    def __init__(self):
        from xdit_comfyui.parallel_backend.sharding.attention import symmetric_exchange
        from xdit_comfyui.parallel_backend.sharding.exchange.collectives import new_sequence_groups

        size = dist.get_world_size()
        self._plain = new_sequence_groups([range(size)], size, 1)
        in_shared_files()
        exchange = symmetric_exchange.SymmetricExchange(self._plain.ulysses, dist.get_rank(), size, torch.device("cpu"))
        self._direct = replace(self._plain, symmetric=exchange)

    def answer(self, verb: str, *arguments):
        return {"compare": self._compare, "many": self._many, "counted": self._counted}[verb](*arguments)

    def _compare(self, tokens, heads, batch, seed=0) -> bool:
        from xdit_comfyui.parallel_backend.sharding.attention.ulysses import heads_to_tokens, tokens_to_heads

        rank, dim = dist.get_rank(), 8
        generator = torch.Generator().manual_seed(seed * 10 + rank)
        tensors = [torch.randn(batch, sum(heads), tokens[rank], dim, generator=generator) for _ in range(3)]
        arguments = [heads] * 3, tokens
        sent, written = (tokens_to_heads(tensors, *arguments, groups) for groups in (self._plain, self._direct))
        time.sleep(random.random() * 0.01)
        same = all(torch.equal(one, other) for one, other in zip(sent, written, strict=True))
        out = sent[0].transpose(1, 2).flatten(2)
        back = [heads_to_tokens(out, heads, tokens, groups) for groups in (self._plain, self._direct)]
        return same and torch.equal(*back)

    def _many(self, exchanges: int) -> bool:
        """Sizes change between, so that buffers grow too."""
        size = dist.get_world_size()
        return all(
            self._compare((turn % 5 + 1,) * size, (1,) * size, turn % 2 + 1, seed=turn) for turn in range(exchanges)
        )

    def _counted(self) -> list[int]:
        """How far one comparison takes the count of exchanges through symmetric memory."""
        from xdit_comfyui.parallel_backend.sharding.exchange import collective_counts

        size = dist.get_world_size()
        before = collective_counts.begun()
        self._compare((2,) * size, (1,) * size, 1)
        after = collective_counts.begun()
        return [after[name] - before[name] for name in sorted(after) if name.endswith("symmetric")]
