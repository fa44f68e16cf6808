"""Rotary positions, and norms with what follows, in a form that the compiler can fuse: comfy_kitchen's operators are
closed to it.

The formulas are those of comfy_kitchen's reference implementation (backends/eager/rope.py and adaln.py), in its
precision. Its operators that write into their arguments stay closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import layer_norm, rms_norm


def _interleaved(x: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """x [B, H, L, D] in pairs (2k, 2k + 1), freqs [..., L or more, D/2, 2, 2], usually fp32; the dtype of x."""
    if x.shape[2] != 1 and freqs.ndim > 2 and freqs.shape[2] > x.shape[2]:
        freqs = freqs[:, :, : x.shape[2]]
    pairs = x.to(freqs.dtype).unflatten(-1, (-1, 1, 2))
    turned = freqs[..., 0] * pairs[..., 0] + freqs[..., 1] * pairs[..., 1]
    return turned.flatten(-2).to(x.dtype)


def _split_half(x: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """The same for pairs (k, k + D/2)."""
    first, second = (half.unsqueeze(-1) for half in x.to(freqs.dtype).chunk(2, dim=-1))
    turned = freqs[..., 0] * first + freqs[..., 1] * second  # [..., D/2, 2]
    return turned.movedim(-1, -2).flatten(-2).to(x.dtype)


def _of_both(rotate: Callable[..., torch.Tensor]) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    return lambda xq, xk, freqs_cis: (rotate(xq, freqs_cis), rotate(xk, freqs_cis))


def _after_norm(rotate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def normed(x, freqs_cis, scale, epsilon=1e-6, rot_dim=0):
        x = rms_norm(x, (x.shape[-1],), weight=scale, eps=epsilon)
        if rot_dim and rot_dim != x.shape[-1]:
            return torch.cat((rotate(x[..., :rot_dim], freqs_cis), x[..., rot_dim:]), dim=-1)
        return rotate(x, freqs_cis)

    return normed


def _of_both_after_norm(rotate: Callable[..., torch.Tensor]) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    one = _after_norm(rotate)

    def normed(q, k, freqs_cis, q_scale, k_scale=None, epsilon=1e-6, rot_dim=0):
        k_scale = q_scale if k_scale is None else k_scale
        return one(q, freqs_cis, q_scale, epsilon, rot_dim), one(k, freqs_cis, k_scale, epsilon, rot_dim)

    return normed


def _rms_adaln(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float) -> torch.Tensor:
    return rms_norm(x, (x.shape[-1],), eps=eps) * (1 + scale) + shift


def _adaln(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float) -> torch.Tensor:
    return layer_norm(x, (x.shape[-1],), eps=eps) * (1 + scale) + shift


FORMULAS: dict[str, Callable[..., Any]] = {
    "adaln": _adaln,
    "apply_rope": _of_both(_interleaved),
    "apply_rope1": _interleaved,
    "apply_rope_split_half": _of_both(_split_half),
    "apply_rope_split_half1": _split_half,
    "rms_adaln": _rms_adaln,
    "rms_rope": _of_both_after_norm(_interleaved),
    "rms_rope1": _after_norm(_interleaved),
    "rms_rope_split_half": _of_both_after_norm(_split_half),
    "rms_rope_split_half1": _after_norm(_split_half),
}


def open_to_the_compiler() -> None:
    """Register the formulas as decompositions, for this process; those whose operator this comfy_kitchen has."""
    from torch._inductor.decomposition import decompositions

    for name, formula in FORMULAS.items():
        if hasattr(torch.ops.comfy_kitchen, name):
            decompositions[getattr(torch.ops.comfy_kitchen, name).default] = formula
