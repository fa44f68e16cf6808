"""Two attentions of the same queries over different keys, made one by their log-sum-exps (arXiv 2310.01889)."""

from __future__ import annotations

import functools
import importlib.util

import torch


def merge(
    out: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """`out`, `part` [B, H, L, D], any floating dtype; `lse`, `part_lse` [B, H, L] fp32, -inf where there was no key.

    Returns the attention over both [B, H, L, D] in `dtype`, which lies in memory as [B, L, H, D], and its lse.
    """
    if out.is_cuda and _has_triton():
        from .merge_kernel import merge_fused

        return merge_fused(out, lse, part, part_lse, dtype)
    # nan: neither has a key for this row, both hold zeros
    weight = torch.sigmoid((part_lse - lse).nan_to_num_(nan=0.0)).unsqueeze(-1)
    merged = torch.lerp(out.float(), part.float(), weight).to(dtype)
    return merged.transpose(1, 2).contiguous().transpose(1, 2), torch.logaddexp(lse, part_lse)


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
