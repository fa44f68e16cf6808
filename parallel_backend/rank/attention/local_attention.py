"""Attention on one device by the best of several kernels, for ComfyUI's own calls and for a ring's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType

import comfy.ops
import torch
from torch.nn.attention import SDPBackend

from ...contract.attention_kernels import FLASH3
from ...sharding.attention.flash3 import Flash3
from ...sharding.attention.lse_attention import attention_with_lse
from . import torch_kernels
from .fastest_kernel import Fastest

# Floating point operations below which a call is bound by its launch, and torch's is the shortest.
SMALL = 1e10


class LocalAttention:
    """Attention on one device by `kernels`, best first: the first that serves a call, or, with `fastest`, the fastest.

    `flash3`: where "flash3" is among them. Torch decides, with these kernels first, about calls that none of them
    serves.
    """

    def __init__(self, kernels: tuple[str, ...], flash3: Flash3 | None, fastest: Fastest | None):
        self._kernels = kernels
        self._with_lse: dict[str, Callable] = {name: known.with_lse for name, known in torch_kernels.KERNELS.items()}
        self._serving = {name: known.serves for name, known in torch_kernels.KERNELS.items()}
        if flash3 is not None:
            self._with_lse[FLASH3] = flash3
            self._serving[FLASH3] = lambda q, k, v, lse: flash3.serves(q)
        self._fastest = fastest
        self._chosen: dict[str, str | None] = {}
        self._torch = comfy.ops.scaled_dot_product_attention
        self._order: list[SDPBackend] = getattr(comfy.ops, "SDPA_BACKEND_PRIORITY", [])

    @contextlib.contextmanager
    def in_comfyui(self) -> Iterator[None]:
        """ComfyUI's attention_pytorch comes here while the context lasts; other attention functions do not, and neither
        does it where a node pack has put a kernel of its own in the place of torch's.
        """
        order = list(self._order)
        self._torch_first(None)
        if (FLASH3 in self._with_lse or self._fastest is not None) and _goes_to_torch(self._torch):
            comfy.ops.scaled_dot_product_attention = self
        try:
            yield
        finally:
            comfy.ops.scaled_dot_product_attention = self._torch
            self._order[:] = order

    def __call__(
        self, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ) -> torch.Tensor:
        """As torch's scaled_dot_product_attention; a compiler that looks into it sees that one."""
        options = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
        options["enable_gqa"] = enable_gqa
        if torch.compiler.is_compiling():
            return self._torch(q, k, v, **options)

        def run(kernel: str | None) -> torch.Tensor:
            if kernel == FLASH3:
                return self._with_lse[FLASH3](q, k, v, scale)[0]
            self._torch_first(kernel)
            return self._torch(q, k, v, **options)

        if attn_mask is not None or dropout_p or is_causal or not (enable_gqa or q.shape[-3] == k.shape[-3]):
            return run(None)
        return run(self._choose(q, k, v, run, lse=False))

    def with_lse(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `attention_with_lse`."""

        def run(kernel: str | None) -> tuple[torch.Tensor, torch.Tensor]:
            if kernel is None:
                return attention_with_lse(q, k, v, mask, scale)
            return self._with_lse[kernel](q, k, v, scale)

        return run(self._choose(q, k, v, run, lse=True) if mask is None else None)

    def _choose(self, q, k, v, run: Callable[[str], object], lse: bool) -> str | None:
        """The kernel for a call without a mask, None for the rule of torch's own; `run(kernel)` makes the call."""
        if not _ordinary(q, k, v):
            return None
        signature = _signature(q, k, lse)
        if signature in self._chosen:
            return self._chosen[signature]
        kernels = [kernel for kernel in self._kernels if self._serving[kernel](q, k, v, lse)]
        if self._fastest is None or len(kernels) < 2:
            kernel = next(iter(kernels), None)
        elif 4 * q.numel() * k.shape[2] < SMALL:
            kernel = next(kernel for kernel in kernels if kernel != FLASH3)
        elif (known := self._fastest.known(signature)) in kernels:
            kernel = known
        elif torch.cuda.is_current_stream_capturing():
            return kernels[0]
        else:
            kernel = self._fastest.measure(signature, kernels, run)
        self._chosen[signature] = kernel
        return kernel

    def _torch_first(self, kernel: str | None) -> None:
        """Torch tries `kernel` first, or its own best, for calls from now on."""
        names = sorted((name for name in self._kernels if name != FLASH3), key=lambda name: name != kernel)
        if names:
            self._order[:] = [torch_kernels.KERNELS[name].backend for name in names] + torch_kernels.REST


def _goes_to_torch(function: Callable) -> bool:
    """Whether ComfyUI's scaled_dot_product_attention is its own, and so is the one of torch that it calls."""
    torchs = torch.nn.functional.scaled_dot_product_attention
    return function.__module__ == comfy.ops.__name__ and isinstance(torchs, BuiltinFunctionType)


def _ordinary(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """One dtype and head size, keys shaped like values, and nothing that torch would have to broadcast."""
    return (
        q.ndim == k.ndim == 4
        and k.shape == v.shape
        and (q.shape[0], q.shape[3]) == (k.shape[0], k.shape[3])
        and q.dtype == k.dtype == v.dtype
        and q.numel() > 0
        and k.numel() > 0
        and q.shape[1] % k.shape[1] == 0
    )


def _signature(q: torch.Tensor, k: torch.Tensor, lse: bool) -> str:
    """What the time of a call without a mask depends on."""
    heads = f"{q.shape[1]}" if q.shape[1] == k.shape[1] else f"{q.shape[1]}/{k.shape[1]}"
    sizes = f"{q.shape[0]} x {heads} heads of {q.shape[3]}, {q.shape[2]} to {k.shape[2]} tokens"
    return f"{sizes}, {q.dtype}{', lse' if lse else ''}"
