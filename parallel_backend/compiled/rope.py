"""Rotary positions in a form that the compiler can fuse: comfy_kitchen's operators are closed to it.

The formulas are those of comfy_kitchen's reference implementation (backends/eager/rope.py), in its precision.
"""

from __future__ import annotations

import torch


def _interleaved(x: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """x [B, H, L, D] in pairs (2k, 2k + 1), freqs [..., L or more, D/2, 2, 2], usually fp32; the dtype of x."""
    if x.shape[2] != 1 and freqs.ndim > 2 and freqs.shape[2] > x.shape[2]:
        freqs = freqs[:, :, : x.shape[2]]
    pairs = x.to(freqs.dtype).unflatten(-1, (-1, 1, 2))
    turned = freqs[..., 0] * pairs[..., 0] + freqs[..., 1] * pairs[..., 1]
    return turned.flatten(-2).to(x.dtype)


def open_to_the_compiler() -> None:
    """Register the formulas as decompositions, for this process."""
    from torch._inductor.decomposition import decompositions

    operators = torch.ops.comfy_kitchen
    decompositions[operators.apply_rope1.default] = _interleaved
    decompositions[operators.apply_rope.default] = lambda q, k, freqs: (_interleaved(q, freqs), _interleaved(k, freqs))
