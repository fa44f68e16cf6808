"""Formulas in the place of comfy_kitchen's operators: the same numbers, and nothing closed is left in the graph."""

import comfy_kitchen  # noqa: F401 - registers the operators
import pytest
import torch
from support.parity import relative_error
from torch.fx.experimental.proxy_tensor import make_fx
from xdit_comfyui.parallel_backend.compiled.kitchen_formulas import FORMULAS

HEADS, TOKENS, SIZE = 3, 5, 16


def randn(*shape, dtype):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


def inputs(name: str, dtype: torch.dtype) -> tuple:
    x = randn(2, HEADS, TOKENS, SIZE, dtype=dtype)
    if "adaln" in name:
        return x, randn(2, 1, 1, SIZE, dtype=dtype), randn(1, SIZE, dtype=dtype), 1e-5
    freqs = randn(1, 1, TOKENS, SIZE // 2, 2, 2, dtype=torch.float32)
    scale = randn(SIZE, dtype=dtype)
    both = not name.endswith("1")
    if name.startswith("rms"):
        return (x, x.flip(2), freqs, scale, scale.flip(0), 1e-5) if both else (x, freqs, scale, 1e-5)
    return (x, x.flip(2), freqs) if both else (x, freqs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_the_same_numbers(name, dtype):
    operator = getattr(torch.ops.comfy_kitchen, name, None)
    if operator is None:
        pytest.skip("this comfy_kitchen does not have it")
    given = inputs(name, dtype)
    compare(operator.default, FORMULAS[name], given)


def test_a_part_of_each_head_is_rotated():
    operator = getattr(torch.ops.comfy_kitchen, "rms_rope_split_half", None)
    if operator is None or "rot_dim" not in str(operator.default._schema):
        pytest.skip("this comfy_kitchen does not have it")
    q, k, freqs, *scales = inputs("rms_rope_split_half", torch.float32)
    given = (q, k, freqs[..., : SIZE // 4, :, :], *scales, SIZE // 2)
    compare(operator.default, FORMULAS["rms_rope_split_half"], given)


def compare(operator, formula, given):
    traced = make_fx(lambda *given: operator(*given), decomposition_table={operator: formula})(*given)
    assert not [node for node in traced.graph.nodes if "comfy_kitchen" in str(node.target)]
    expected, found = operator(*given), traced(*given)
    expected, found = ((value,) if isinstance(value, torch.Tensor) else value for value in (expected, found))
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert relative_error(other.float(), one.float()) <= (1e-6 if one.dtype == torch.float32 else 4e-3)
