"""Which attention kernel the ranks use, below the exchange: the one that is asked for, or the fastest."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

import comfy.model_management
import torch

from ...contract.attention_kernels import AUTO, COMFYUI, CUDNN, FLASH3
from ...sharding.attention.flash3 import Flash3
from ...sharding.attention.lse_attention import cudnn_is_faster
from ...sharding.attention.ring import KernelWithLse
from .fastest_kernel import Fastest, fastest_file
from .kernel_trials import NOT_FOR_DEVICE, NOT_INSTALLED, flash3_on
from .local_attention import LocalAttention
from .torch_kernels import ORDERS


@contextlib.contextmanager
def attention_kernel(name: str, note: Callable[[str], None] = logging.warning) -> Iterator[KernelWithLse]:
    """ComfyUI's scaled dot product attention by the kernel `name`, one of contract.attention_kernels' CHOICES, while
    the context lasts. Gives the attention of the same kernel that a ring takes. `note(line)` hears that flash3 cannot
    be had.

    "auto": the fastest for each shape, without a measurement FlashAttention 3 on a Hopper GPU where it is installed,
    else cuDNN from Hopper on, else ComfyUI's order; "comfyui": ComfyUI's order; others: this kernel first. A call that
    a kernel cannot serve (mask, dtype, head size) goes to the next one, at last to those of torch.
    """
    device = torch.device("cpu") if not torch.cuda.is_available() else comfy.model_management.get_torch_device()
    flash3 = _flash3(device, name, note) if name in (AUTO, FLASH3) else None
    kernels = ((FLASH3,) if flash3 is not None else ()) + _torch_kernels(device, name)
    fastest = _fastest(_machine(device, flash3)) if name == AUTO and device.type == "cuda" else None
    attention = LocalAttention(kernels, flash3, fastest)
    with attention.in_comfyui() if name != COMFYUI else contextlib.nullcontext():
        yield attention.with_lse


def _flash3(device: torch.device, name: str, note: Callable[[str], None]) -> Flash3 | None:
    found = flash3_on(device)
    if isinstance(found, Flash3):
        return found
    if name == FLASH3:
        note(
            f"attention flash3 cannot be had (FlashAttention 3: {found}), so PyTorch's kernels are used; it runs on"
            " Hopper GPUs (H100, H200), after pip install fa3-fwd"
        )
    elif found not in (NOT_INSTALLED, NOT_FOR_DEVICE):
        note(f"FlashAttention 3 is installed, but {found}: PyTorch's attention kernels are used")
    return None


def _torch_kernels(device: torch.device, name: str) -> tuple[str, ...]:
    """Those of torch, best first."""
    if device.type != "cuda":
        return ()
    if name in (AUTO, FLASH3):
        name = CUDNN if cudnn_is_faster(device) else COMFYUI
    return ORDERS[name]


def _machine(device: torch.device, flash3: Flash3 | None) -> str:
    """What a measurement counts for."""
    third = f"{flash3.module} {flash3.version}" if flash3 is not None else "no FlashAttention 3"
    gpu = torch.cuda.get_device_name(device)
    return f"{gpu}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {third}"


@functools.cache
def _fastest(machine: str) -> Fastest:
    return Fastest(fastest_file(), machine)
