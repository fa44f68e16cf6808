"""Attentions over two sets of keys, merged, are the attention over both; the fused kernel gives the same."""

import os
import subprocess
import sys

import pytest
import torch
from comfy_host import PACK_ROOT
from xdit_comfyui.parallel_backend.sharding.attention.lse_attention import attention_with_lse
from xdit_comfyui.parallel_backend.sharding.attention.merge import merge

SHAPES = [(1, 3, 37, 16), (2, 2, 5, 40)]  # B, H, L, D
IN_TRITONS_INTERPRETER = """
import sys, torch
from support.rank_origin import make_pack_importable
make_pack_importable()
from xdit_comfyui.parallel_backend.sharding.attention.merge_kernel import merge_fused
cases = torch.load(sys.argv[1])
torch.save([merge_fused(*case) for case in cases], sys.argv[2])
"""


def parts(shape, dtype=torch.float32):
    """Two attentions that rows of the first, of the second and of both have no key in."""
    generator = torch.Generator().manual_seed(shape[2])
    q, *kv = (torch.randn(shape, generator=generator).to(dtype) for _ in range(5))
    masks = torch.rand(2, shape[2], shape[2], generator=generator) > 0.5
    masks[0, 0] = masks[1, 1] = masks[:, 2] = False
    found = [attention_with_lse(q, k, v, mask) for k, v, mask in zip(kv[::2], kv[1::2], masks, strict=True)]
    whole = attention_with_lse(q, torch.cat(kv[::2], 2), torch.cat(kv[1::2], 2), torch.cat(tuple(masks), 1))
    return found, whole


@pytest.mark.parametrize("shape", SHAPES)
def test_merged_is_the_attention_over_both(shape):
    (one, other), (out, lse) = parts(shape)
    merged, merged_lse = merge(*one, *other, torch.float32)
    torch.testing.assert_close(merged, out, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merged_lse, lse, rtol=1e-5, atol=1e-6)


def test_the_fused_kernel_gives_the_same(tmp_path):
    cases = []
    for shape in SHAPES:
        for dtype, result in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float16,) * 2):
            (one, other), _ = parts(shape, dtype)
            cases.append((*one, *other, result))
            token_major = one[0].transpose(1, 2).contiguous().transpose(1, 2)
            cases.append((token_major, *cases[-1][1:]))
    given, found = tmp_path / "given.pt", tmp_path / "found.pt"
    torch.save(cases, given)
    subprocess.run(
        [sys.executable, "-c", IN_TRITONS_INTERPRETER, given, found],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(PACK_ROOT / "tests")},
        check=True,
        timeout=120,
    )
    for case, (out, lse) in zip(cases, torch.load(found), strict=True):
        expected, expected_lse = merge(*case)
        assert out.dtype == expected.dtype and out.stride() == expected.stride()
        torch.testing.assert_close(out, expected, rtol=1e-3 if case[-1] == torch.float16 else 1e-5, atol=1e-6)
        torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-6)
