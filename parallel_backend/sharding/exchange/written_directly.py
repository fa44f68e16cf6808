"""What takes the place of collectives where ranks write into each other's memory, as sequence parallelism uses it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch


class HeadExchange(Protocol):
    """Ulysses' exchanges; attention/symmetric_exchange.py makes them."""

    def fits(self, elements: int, dtype: torch.dtype) -> bool: ...

    def tokens_to_heads(
        self, tensors: Sequence[torch.Tensor], heads: Sequence[Sequence[int]], tokens: Sequence[int]
    ) -> list[torch.Tensor]: ...

    def heads_to_tokens(self, out: torch.Tensor, heads: Sequence[int], tokens: Sequence[int]) -> torch.Tensor: ...


class RingExchange(Protocol):
    """A ring's keys and values; attention/direct_ring.py makes them."""

    def fits(self, k: torch.Tensor, lengths: Sequence[int]) -> bool: ...

    def exchange(
        self, k: torch.Tensor, v: torch.Tensor, lengths: Sequence[int]
    ) -> list[tuple[int, torch.Tensor, torch.Tensor]]: ...

    def fits_together(self, k: torch.Tensor, lengths: Sequence[int]) -> bool: ...

    def bring_together(
        self, k: torch.Tensor, v: torch.Tensor, lengths: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def follow(self) -> None: ...

    def beside(self) -> AbstractContextManager[None]: ...

    def join(self) -> None: ...
