"""FlashAttention 3 (arXiv 2407.08608): exact attention for Hopper GPUs, from whichever package gives it.

Two packages have the same `flash_attn_func`: the official one, and PyPI's forward-only build `fa3-fwd`, which takes no
fp16.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...contract.attention_kernels import FLASH3, KERNELS

DISTRIBUTIONS = KERNELS[FLASH3].package  # by module, the first wins
HOPPER = 9  # major compute capability
MOST_HEAD_SIZE, HEAD_SIZE_STEP = 256, 8


def runs_on(device: torch.device) -> bool:
    """Whether its kernels are made for `device`. On another GPU their launch may end the process."""
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability(device)[0] == HOPPER


@dataclass(frozen=True)
class Flash3:
    """`function`: a package's flash_attn_func; `options`: what makes it return the log-sum-exp."""

    module: str
    function: Callable[..., tuple[torch.Tensor, ...]]
    options: dict[str, Any]
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)

    @classmethod
    def of(cls, module: str) -> Flash3:
        """That of the installed `module`. Raises ImportError, and whatever a package raises that does not fit."""
        function = importlib.import_module(module).flash_attn_func
        asks = "return_attn_probs" in inspect.signature(function).parameters  # older ones return it always
        return cls(module, function, {"return_attn_probs": True} if asks else {})

    @property
    def version(self) -> str:
        try:
            return importlib.metadata.version(DISTRIBUTIONS[self.module])
        except importlib.metadata.PackageNotFoundError:  # built in place
            return "unknown"

    def serves(self, q: torch.Tensor) -> bool:
        """Whether it takes queries [B, H, Lq, D], with keys and values [B, h, Lk, D] of their dtype, h dividing H."""
        size = q.shape[-1]
        return q.dtype in self.dtypes and size <= MOST_HEAD_SIZE and size % HEAD_SIZE_STEP == 0

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """softmax(q kᵀ · scale) v [B, H, Lq, D], which lies in memory as [B, Lq, H, D], and the natural log-sum-exp of
        the scores [B, H, Lq] in fp32. Tensors as in `serves`, any strides; scale D^-0.5 when None.
        """
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        out, lse = self.function(q, k, v, softmax_scale=scale, **self.options)[:2]
        return out.transpose(1, 2), lse
