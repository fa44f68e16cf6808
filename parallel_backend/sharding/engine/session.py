"""What lasts for one request: the process groups its models are sharded over."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from ..attention.ring import KernelWithLse
from ..exchange.collectives import SequenceGroups
from .call_modes import Mode


@dataclass
class Session:
    """Sequence parallelism of one request: set as `ShardedModel.session` while it samples.

    `sp`: the process groups; `usp`: xfuser's USP for them, or None. `notes`: lines for the person, each once.
    `mode`: forces persist or block mode; None chooses for each model call. `kernel_with_lse`: the attention of one
    device inside a ring, see `ring_attention`; None for `attention_with_lse`. `controls`: the classes of node packs'
    ControlNets, by name.
    """

    sp: SequenceGroups
    usp: Any = None
    mode: Mode | None = None
    kernel_with_lse: KernelWithLse | None = None
    controls: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)
            logging.info("xDiT: %s", line)
