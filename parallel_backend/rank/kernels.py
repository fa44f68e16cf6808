"""Which attention kernel the ranks use, below the exchange: ComfyUI's own choice or one of torch's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import comfy.ops
import torch
from torch.nn.attention import SDPBackend

HOPPER = (9, 0)
PRIORITIES = {
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION],
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION],
}
REST = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@contextlib.contextmanager
def attention_kernel(name: str) -> Iterator[None]:
    """Order of torch's SDPA kernels while the context lasts.

    "auto": cuDNN first on Hopper and newer (benchmarks/), ComfyUI's order elsewhere; "comfyui": ComfyUI's order;
    "cudnn", "flash": this kernel first. torch passes over a kernel that cannot serve a call (mask, head size).
    """
    if name == "auto":
        name = "cudnn" if torch.cuda.is_available() and torch.cuda.get_device_capability() >= HOPPER else "comfyui"
    order = getattr(comfy.ops, "SDPA_BACKEND_PRIORITY", None)
    if name == "comfyui" or order is None:
        yield
        return
    before = list(order)
    order[:] = PRIORITIES[name] + REST
    try:
        yield
    finally:
        order[:] = before
