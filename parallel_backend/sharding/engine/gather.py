"""Makes a split sequence whole again on every rank."""

from __future__ import annotations

import torch
import torch.distributed as dist

from ..exchange.collectives import SequenceGroups, TokenSplit


def gather_tokens(local: torch.Tensor, split: TokenSplit, sp: SequenceGroups) -> torch.Tensor:
    """[B, l_r, C] of every rank → [B, sum(l), C] in rank order, the same on every rank. Lengths may differ."""
    if sp.size == 1:
        return local
    return gather_rows(local.transpose(0, 1), split, sp).transpose(0, 1).contiguous()


def gather_keys(local: torch.Tensor, split: TokenSplit, sp: SequenceGroups) -> torch.Tensor:
    """A mask [..., l_r] over this rank's keys → [..., sum(l)] over all keys, in rank order."""
    if sp.size == 1:
        return local
    return gather_rows(local.movedim(-1, 0), split, sp).movedim(0, -1).contiguous()


def gather_rows(local: torch.Tensor, split: TokenSplit, sp: SequenceGroups) -> torch.Tensor:
    """[l_r, ...] of every rank → [sum(l), ...] in rank order. Shorter shares are padded for the collective."""
    longest = max(split.local)
    send = local.contiguous()
    if send.shape[0] < longest:
        send = torch.cat((send, send.new_zeros((longest - send.shape[0], *send.shape[1:]))))
    received = send.new_empty((sp.size * longest, *send.shape[1:]))
    dist.all_gather_into_tensor(received, send, group=sp.sequence)
    if len(set(split.local)) == 1:
        return received
    return torch.cat([part[:length] for part, length in zip(received.split(longest), split.local, strict=True)])
