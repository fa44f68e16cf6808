"""What sampling knows of the way of its steps to the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

Callback = Callable[[int, torch.Tensor, torch.Tensor, int], None]


class Followers(Protocol):
    """The ranks that follow the one whose steps the host sees."""

    def wait(self) -> None:
        """Tell them, now and then, that this rank waits for the host."""

    def change(self, attributes: dict[str, Any]) -> None:
        """The guider gets these attributes, on every rank."""


class Steps(Protocol):
    """How steps get to the host."""

    def callback(self, followers: Followers) -> Callback:
        """For the sampler."""

    def finish(self) -> None:
        """Returns when the last step is sent; nothing may be sent for the request before."""
