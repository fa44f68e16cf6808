"""The merge of two attentions as one kernel: each number is read once and written once. Needs Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS = 16  # of one program


@triton.jit
def _merge(
    out, lse, part, part_lse, merged, merged_lse,
    rows, length, heads, size,
    out_batch, out_head, out_token, part_batch, part_head, part_token,
    ROWS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # of [batch, token, head]
    there = row < rows
    head, token, batch = row % heads, row // heads % length, row // (heads * length)
    at_lse = (batch * heads + head) * length + token
    a = tl.load(lse + at_lse, mask=there, other=0.0)
    b = tl.load(part_lse + at_lse, mask=there, other=0.0)
    top = tl.maximum(a, b)
    none = top == float("-inf")
    top = tl.where(none, 0.0, top)
    weight_a, weight_b = tl.exp(a - top), tl.exp(b - top)
    total = tl.where(none, 1.0, weight_a + weight_b)
    column = tl.arange(0, SIZE)
    inside = there[:, None] & (column < size)[None, :]
    at_out = (batch * out_batch + head * out_head + token * out_token)[:, None] + column[None, :]
    at_part = (batch * part_batch + head * part_head + token * part_token)[:, None] + column[None, :]
    x = tl.load(out + at_out, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(part + at_part, mask=inside, other=0.0).to(tl.float32)
    value = x * (weight_a / total)[:, None] + y * (weight_b / total)[:, None]
    tl.store(merged + row[:, None] * size + column[None, :], value.to(merged.dtype.element_ty), mask=inside)
    tl.store(merged_lse + at_lse, tl.where(none, float("-inf"), top + tl.log(total)), mask=there)


def merge_fused(
    out: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """As merge.merge, on the device of the tensors."""
    batch, heads, length, size = out.shape
    out, part = (tensor if tensor.stride(3) == 1 else tensor.contiguous() for tensor in (out, part))
    lse, part_lse = lse.contiguous(), part_lse.contiguous()
    merged = torch.empty(batch, length, heads, size, dtype=dtype, device=out.device)
    merged_lse = torch.empty_like(lse)
    rows = batch * heads * length
    _merge[(triton.cdiv(rows, ROWS),)](
        out, lse, part, part_lse, merged, merged_lse,
        rows, length, heads, size,
        *out.stride()[:3], *part.stride()[:3],
        ROWS=ROWS, SIZE=triton.next_power_of_2(size),
    )  # fmt: skip
    return merged.transpose(1, 2), merged_lse
