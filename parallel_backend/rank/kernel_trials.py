"""Which attention kernels work here: each computes a small attention, and its result is compared with plain arithmetic.

Being installed is not enough: a package may be built for another torch or another GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..protocol import KernelTrial

BATCH, HEADS, LENGTH, HEAD_SIZE = 1, 4, 128, 64
MOST_ERROR = 0.05  # bf16 gives less than 0.01; Sage's int8 about 0.02
TORCH_HAS_NONE = ("No viable backend", "No available kernel")  # what SDPA says when it may not use another kernel

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def kernel_trials(device: torch.device) -> tuple[KernelTrial, ...]:
    """One trial for each of KERNELS on `device`, in bf16 (fp32 on a CPU)."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    shape = (3, BATCH, HEADS, LENGTH, HEAD_SIZE)
    q, k, v = torch.randn(shape, generator=generator).to(device, dtype)
    with sdpa_kernel([SDPBackend.MATH]):
        expected = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    return tuple(KernelTrial(name, _fault(kernel, q, k, v, expected)) for name, kernel in KERNELS.items())


def _fault(kernel: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, expected: torch.Tensor) -> str | None:
    """Why a kernel cannot be used here, None when it can. Foreign packages fail in every way there is."""
    try:
        found = kernel(q, k, v).float()
        error = ((found - expected).norm() / expected.norm()).item()
    except ModuleNotFoundError as missing:
        return "not installed" if (missing.name or "").partition(".")[0] in PACKAGES else f"does not load: {missing}"
    except Exception as fault:
        said = (str(fault).strip() or type(fault).__name__).splitlines()[0]
        if any(words in said for words in TORCH_HAS_NONE):
            return "not for this device"
        return f"does not run: {said[:200]}"
    return None if error <= MOST_ERROR else f"gives wrong results (relative error {error:.1e})"


def _sdpa(backend: SDPBackend) -> Attention:
    def attention(q, k, v):
        with sdpa_kernel([backend]):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    return attention


def _flash_attn_2(q, k, v):
    from flash_attn import flash_attn_func

    return flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _flash_attn_3(q, k, v):
    from flash_attn_interface import flash_attn_func

    out = flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


def _sage(q, k, v):
    from sageattention import sageattn

    return sageattn(q, k, v, tensor_layout="HND")


def _xformers(q, k, v):
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


PACKAGES = ("flash_attn", "flash_attn_interface", "sageattention", "xformers")
KERNELS: dict[str, Attention] = {
    "cudnn": _sdpa(SDPBackend.CUDNN_ATTENTION),
    "flash": _sdpa(SDPBackend.FLASH_ATTENTION),
    "efficient": _sdpa(SDPBackend.EFFICIENT_ATTENTION),
    "math": _sdpa(SDPBackend.MATH),
    "flash-attn 2": _flash_attn_2,
    "flash-attn 3": _flash_attn_3,
    "sage": _sage,
    "xformers": _xformers,
}
