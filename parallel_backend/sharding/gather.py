"""Makes a split sequence whole again on every rank."""

from __future__ import annotations

import torch
import torch.distributed as dist

from .collectives import SequenceGroups, TokenSplit


def gather_tokens(local: torch.Tensor, split: TokenSplit, sp: SequenceGroups) -> torch.Tensor:
    """[B, l_r, C] of every rank → [B, sum(l), C] in rank order, the same on every rank. Lengths may differ."""
    if sp.size == 1:
        return local
    longest = max(split.local)
    send = local.transpose(0, 1).contiguous()
    if send.shape[0] < longest:
        send = torch.cat((send, send.new_zeros((longest - send.shape[0], *send.shape[1:]))))
    received = send.new_empty((sp.size * longest, *send.shape[1:]))
    dist.all_gather_into_tensor(received, send, group=sp.sequence)
    if len(set(split.local)) > 1:
        parts = received.split(longest)
        received = torch.cat([part[:length] for part, length in zip(parts, split.local, strict=True)])
    return received.transpose(0, 1).contiguous()
