"""Whether GPUs may write into each other's memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import permutations

import torch


def wanted() -> bool:
    """Not with NCCL_P2P_DISABLE=1 or XDIT_SYMMETRIC_MEMORY=0."""
    return os.environ.get("XDIT_SYMMETRIC_MEMORY", "1") != "0" and os.environ.get("NCCL_P2P_DISABLE", "0") != "1"


def reachable(indices: Iterable[int]) -> bool:
    """Whether each of these CUDA devices can reach the memory of every other one."""
    return all(torch.cuda.can_device_access_peer(one, other) for one, other in permutations(indices, 2))
