"""Attention on one device that also returns the log-sum-exp of each query's scores, as a ring needs it.

`attention_with_lse` takes the fastest kernel of torch that can: cuDNN or FlashAttention on CUDA without a mask,
the memory-efficient kernel with one or in fp32, the flash kernel on the CPU, and plain softmax elsewhere. What a rank
takes in its place for calls without a mask is chosen in rank/attention/local_attention.py.
"""

import torch
import torch.nn.functional as F

CUDNN_HEAD_SIZE, FLASH_HEAD_SIZE = 128, 256
_SCORES_AT_ONCE = 1 << 26
_BIAS_ALIGNMENT = 8


def attention_with_lse(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, scale: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q kᵀ · scale + mask) v and the natural log-sum-exp of the scores.

    q [B, H, Lq, D]; k, v [B, h, Lk, D] with h dividing H, Lk > 0; mask bool (True: may attend) or additive,
    broadcastable to [B, H, Lq, Lk]; scale D^-0.5 when None. Returns out [B, H, Lq, D] in q's dtype and lse [B, H, Lq]
    in fp32. A query that no key is left to gets out 0 and lse -inf.
    """
    k, v = _for_each_query_head(q, k, v)
    if mask is None:
        return _unmasked(q, k, v, scale)

    bias = _as_bias(mask.expand(*mask.shape[:-1], k.shape[2]), q)
    out, lse = _masked(q, k, v, bias, scale)
    # The fused kernels report lse 0 for such a row, which a merge would take for a weight.
    alone = (bias == float("-inf")).all(dim=-1)
    return out.masked_fill(alone.unsqueeze(-1), 0), lse.masked_fill(alone, float("-inf"))


def cudnn_with_lse(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `attention_with_lse` without a mask, by cuDNN: fp16 or bf16, D a multiple of 8 up to CUDNN_HEAD_SIZE."""
    k, v = _for_each_query_head(q, k, v)
    out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, scale=scale)[:2]
    return out, lse.reshape(q.shape[:3])


def flash_with_lse(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `attention_with_lse` without a mask, by torch's FlashAttention 2: fp16 or bf16, D a multiple of 8 up to
    FLASH_HEAD_SIZE.
    """
    k, v = _for_each_query_head(q, k, v)
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[:2]


def _for_each_query_head(q, k, v):
    repeats = q.shape[1] // k.shape[1]
    if repeats == 1:
        return k, v
    return k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)


def _unmasked(q, k, v, scale):
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
    if q.device.type == "cuda" and q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0:
        if q.shape[-1] <= CUDNN_HEAD_SIZE and cudnn_is_faster(q.device):
            return cudnn_with_lse(q, k, v, scale)
        if q.shape[-1] <= FLASH_HEAD_SIZE and torch.cuda.get_device_capability(q.device) >= (8, 0):
            return flash_with_lse(q, k, v, scale)
    if _efficient_can(q):
        return _efficient(q, k, v, None, scale)
    return _plain(q, k, v, None, scale)


def _masked(q, k, v, bias, scale):
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias, scale=scale)
    if _efficient_can(q):
        return _efficient(q, k, v, bias, scale)
    return _plain(q, k, v, bias, scale)


def _as_bias(mask: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The mask as numbers to add, in a dtype that the kernels of q's device take."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, float("-inf"))
    if q.device.type != "cuda" and mask.dtype == torch.float32:
        return mask
    return mask.to(q.dtype)


def cudnn_is_faster(device: torch.device) -> bool:
    """cuDNN's attention beats FlashAttention 2 from Hopper on."""
    return (
        torch.version.cuda is not None
        and torch.backends.cudnn.is_available()
        and torch.cuda.get_device_capability(device) >= (9, 0)
    )


def _efficient_can(q: torch.Tensor) -> bool:
    return q.device.type == "cuda" and (q.shape[-1] * q.element_size()) % 16 == 0


def _efficient(q, k, v, bias, scale):
    """The kernel wants the bias in q's dtype, its rows 16-byte aligned, and pads lse to whole blocks of queries."""
    if bias is not None:
        pad = -bias.shape[-1] % _BIAS_ALIGNMENT
        bias = F.pad(bias, (0, pad))[..., : bias.shape[-1]] if pad else bias.contiguous()
        bias = bias.expand(*q.shape[:3], k.shape[2])
    out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, scale=scale)[:2]
    return out, lse[..., : q.shape[2]]


def _plain(q, k, v, bias, scale):
    """Softmax in fp32, a block of queries at a time."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    batch, heads, queries, _ = q.shape
    rows = max(1, _SCORES_AT_ONCE // (batch * heads * k.shape[2]))
    keys, values = k.float().transpose(-1, -2), v.float()
    out = q.new_empty(batch, heads, queries, v.shape[-1])
    lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
    for at in range(0, queries, rows):
        block = slice(at, at + rows)
        scores = torch.matmul(q[:, :, block].float() * scale, keys)
        if bias is not None:
            scores = scores + (bias if bias.shape[-2] == 1 else bias[..., block, :])
        lse[:, :, block] = torch.logsumexp(scores, dim=-1)
        out[:, :, block] = torch.matmul(torch.softmax(scores, dim=-1), values).to(q.dtype)
    return out, lse
