"""PyTorch's own attention kernels: which calls each serves, and how each gives the log-sum-exp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend

from ...contract.attention_kernels import COMFYUI, CUDNN, FLASH
from ...sharding.attention.lse_attention import CUDNN_HEAD_SIZE, FLASH_HEAD_SIZE, cudnn_with_lse, flash_with_lse

LSE_HEAD_STEP = 8


@dataclass(frozen=True)
class TorchKernel:
    """`can`: torch's own answer to whether it serves a call; `with_lse(q, k, v, scale)`: attention and log-sum-exp, for
    heads of up to `lse_head_size`.
    """

    backend: SDPBackend
    can: Callable[[torch.backends.cuda.SDPAParams], bool]
    with_lse: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    lse_head_size: int

    def serves(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lse: bool) -> bool:
        """Whether it takes a call without a mask of q [B, H, Lq, D], k and v [B, h, Lk, D], h dividing H."""
        if lse and (q.shape[-1] > self.lse_head_size or q.shape[-1] % LSE_HEAD_STEP):
            return False
        return self.can(torch.backends.cuda.SDPAParams(q, k, v, None, 0.0, False, q.shape[1] != k.shape[1]))


KERNELS = {
    CUDNN: TorchKernel(
        SDPBackend.CUDNN_ATTENTION, torch.backends.cuda.can_use_cudnn_attention, cudnn_with_lse, CUDNN_HEAD_SIZE
    ),
    FLASH: TorchKernel(
        SDPBackend.FLASH_ATTENTION, torch.backends.cuda.can_use_flash_attention, flash_with_lse, FLASH_HEAD_SIZE
    ),
}
# Best first. "comfyui" is ComfyUI's SDPA_BACKEND_PRIORITY.
ORDERS = {COMFYUI: (FLASH, CUDNN), CUDNN: (CUDNN, FLASH), FLASH: (FLASH, CUDNN)}
REST = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # after them
