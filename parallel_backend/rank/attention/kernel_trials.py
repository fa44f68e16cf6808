"""Which attention kernels work here: each computes a small attention, and its result is compared with plain arithmetic.

Being installed is not enough: a package may be built for another torch or another GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...contract import attention_kernels as known
from ...contract.doctor_messages import KernelTrial
from ...sharding.attention.flash3 import DISTRIBUTIONS, Flash3, runs_on

BATCH, HEADS, LENGTH, HEAD_SIZE = 1, 4, 128, 64
MOST_ERROR = 0.05  # bf16 gives less than 0.01; Sage's int8 about 0.02
NOT_INSTALLED, NOT_FOR_DEVICE = "not installed", "not for this device"
TORCH_HAS_NONE = ("No viable backend", "No available kernel")  # what SDPA says when it may not use another kernel

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class CannotBeUsed(Exception):
    """Why, as a KernelTrial says it."""


def kernel_trials(device: torch.device) -> tuple[KernelTrial, ...]:
    """One trial for each of contract.attention_kernels on `device`, in bf16 (fp32 on a CPU)."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return tuple(KernelTrial(name, _fault(kernel, device, dtype)) for name, kernel in CALLS.items())


@functools.cache
def flash3_on(device: torch.device) -> Flash3 | str:
    """FlashAttention 3 with the dtypes in which it works on `device`, by the first package that does; else why not."""
    if not runs_on(device):
        return NOT_FOR_DEVICE
    faults = []
    for module in DISTRIBUTIONS:
        attention = functools.partial(_of_package, module)
        fault = _fault(attention, device, torch.bfloat16)
        if fault is None:
            found = Flash3.of(module)
            half = _fault(attention, device, torch.float16)
            return found if half is None else replace(found, dtypes=(torch.bfloat16,))
        faults.append(fault)
    return next((fault for fault in faults if fault != NOT_INSTALLED), NOT_INSTALLED)


def _fault(kernel: Attention, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a kernel cannot be used here, None when it can. Foreign packages fail in every way there is."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, BATCH, HEADS, LENGTH, HEAD_SIZE)
    q, k, v = torch.randn(shape, generator=generator).to(device, dtype)
    with sdpa_kernel([SDPBackend.MATH]):
        expected = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    try:
        found = kernel(q, k, v).float()
        error = ((found - expected).norm() / expected.norm()).item()
    except CannotBeUsed as why:
        return str(why)
    except ModuleNotFoundError as missing:
        return NOT_INSTALLED if (missing.name or "").partition(".")[0] in known.MODULES else f"does not load: {missing}"
    except Exception as fault:
        said = (str(fault).strip() or type(fault).__name__).splitlines()[0]
        if any(words in said for words in TORCH_HAS_NONE):
            return NOT_FOR_DEVICE
        return f"does not run: {said[:200]}"
    return None if error <= MOST_ERROR else f"gives wrong results (relative error {error:.1e})"


def _sdpa(backend: SDPBackend) -> Attention:
    def attention(q, k, v):
        with sdpa_kernel([backend]):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    return attention


def _of_package(module: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return Flash3.of(module)(q, k, v)[0]


def _flash_attn_2(q, k, v):
    from flash_attn import flash_attn_func

    return flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _flash_attn_3(q, k, v):
    flash3 = flash3_on(q.device)
    if not isinstance(flash3, Flash3):
        raise CannotBeUsed(flash3)
    return flash3(q, k, v)[0]


def _sage(q, k, v):
    from sageattention import sageattn

    return sageattn(q, k, v, tensor_layout="HND")


def _xformers(q, k, v):
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


CALLS: dict[str, Attention] = {
    known.CUDNN: _sdpa(SDPBackend.CUDNN_ATTENTION),
    known.FLASH: _sdpa(SDPBackend.FLASH_ATTENTION),
    known.EFFICIENT: _sdpa(SDPBackend.EFFICIENT_ATTENTION),
    known.MATH: _sdpa(SDPBackend.MATH),
    known.FLASH2: _flash_attn_2,
    known.FLASH3: _flash_attn_3,
    known.SAGE: _sage,
    known.XFORMERS: _xformers,
}
