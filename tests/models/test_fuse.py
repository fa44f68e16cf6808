"""Linear layers are compiled together with what lies before and after them, where that is right, and give the same."""

import pytest
import torch
from torch.nn.functional import gelu, linear
from xdit_comfyui.parallel_backend.compiled.fuse import fusing

ROWS, WIDTH, HIDDEN = 6, 16, 24
GELU, OF_TWO = torch.ops.xdit.linear_gelu.default, torch.ops.xdit.linear_of_two.default


@pytest.fixture(autouse=True)
def inference():
    torch._dynamo.reset()
    with torch.inference_mode():
        yield
    torch._dynamo.reset()


class Seen:
    """The calls in the graphs that the compiler got."""

    def __init__(self):
        self.targets = []

    def __call__(self, module, inputs):
        self.targets += [node.target for node in module.graph.nodes if node.op == "call_function"]
        return module.forward


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


UP, UP_BIAS = random(HIDDEN, WIDTH, seed=1), random(HIDDEN, seed=2)
DOWN, DOWN_BIAS = random(WIDTH, WIDTH + HIDDEN, seed=3), random(WIDTH, seed=4)


def mlp(x):
    return gelu(linear(x, UP, UP_BIAS), approximate="tanh")


def mlp_without_bias(x):
    return gelu(linear(x, UP), approximate="tanh")


def side_by_side(x):
    a, b = torch.split(
        linear(x, torch.cat((DOWN[:, :WIDTH], UP)), torch.cat((DOWN_BIAS, UP_BIAS))), [WIDTH, HIDDEN], -1
    )
    a = a.softmax(-1)
    return linear(torch.cat((a, gelu(b, approximate="tanh")), x.ndim - 1), DOWN, DOWN_BIAS)


def two_inputs(x):
    return linear(torch.cat((x.sin(), mlp(x)), dim=-1), DOWN)


FUSED = {
    mlp: {GELU: 1},
    mlp_without_bias: {GELU: 1},
    side_by_side: {GELU: 1, OF_TWO: 1, linear: 1},
    two_inputs: {GELU: 1, OF_TWO: 1},
}


@pytest.mark.parametrize("shape", [(ROWS, WIDTH), (1, ROWS, WIDTH), (2, 3, ROWS, WIDTH), (1, 0, WIDTH)])
@pytest.mark.parametrize("function", FUSED, ids=lambda function: function.__name__)
def test_fused(function, shape):
    seen, x = Seen(), random(*shape)
    compiled = torch.compile(function, fullgraph=True, backend=fusing(seen))(x)
    torch.testing.assert_close(compiled, function(x), rtol=1e-12, atol=1e-12)
    assert {target: seen.targets.count(target) for target in FUSED[function]} == FUSED[function]
    assert torch._C._nn.gelu not in seen.targets


def exact_gelu(x):
    return gelu(linear(x, UP, UP_BIAS))


def used_twice(x):
    y = linear(x, UP, UP_BIAS)
    return gelu(y, approximate="tanh") + y


def no_part_through_gelu(x):
    a, b = torch.split(linear(x, torch.cat((UP, UP))), HIDDEN, dim=-1)
    return a * b


def part_used_twice(x):
    a, b = torch.split(linear(x, torch.cat((UP, UP))), [HIDDEN, HIDDEN], dim=-1)
    return a + gelu(b, approximate="tanh") * b


def whole_used_too(x):
    y = linear(x, torch.cat((UP, UP)))
    a, b = torch.split(y, [HIDDEN, HIDDEN], dim=-1)
    return a + gelu(b, approximate="tanh") + y.sum()


def along_tokens(x):
    a, b = torch.split(linear(x, UP), [1, ROWS - 1], dim=-2)
    return linear(torch.cat((a, gelu(b, approximate="tanh")), dim=-2), UP.t())


def three_inputs(x):
    return linear(torch.cat((x, x.sin(), x.cos()), dim=-1), torch.cat((UP, UP, UP), dim=1))


def cat_used_twice(x):
    y = torch.cat((x, mlp(x)), dim=-1)
    return linear(y, DOWN) + y.sum()


@pytest.mark.parametrize(
    "function",
    [exact_gelu, used_twice, no_part_through_gelu, part_used_twice, whole_used_too, along_tokens, three_inputs],
    ids=lambda function: function.__name__,
)
def test_left_as_it_is(function):
    seen, x = Seen(), random(ROWS, WIDTH)
    compiled = torch.compile(function, fullgraph=True, backend=fusing(seen))(x)
    assert torch.equal(compiled, function(x))
    assert not {GELU, OF_TWO} & set(seen.targets)


def test_an_input_used_elsewhere_is_put_together():
    seen, x = Seen(), random(ROWS, WIDTH)
    compiled = torch.compile(cat_used_twice, fullgraph=True, backend=fusing(seen))(x)
    torch.testing.assert_close(compiled, cat_used_twice(x), rtol=1e-12, atol=1e-12)
    assert OF_TWO not in seen.targets


@pytest.mark.parametrize(("dtype", "fused"), [(torch.bfloat16, True), (torch.float16, False)])
def test_half_precision(dtype, fused):
    """A part of a sum may be beyond the largest fp16; in bf16 one rounding more is no loss to speak of."""
    ratios, weight = [], DOWN.to(dtype)
    for seed in range(20):
        seen, a, b = Seen(), random(64, WIDTH, dtype=dtype, seed=seed), random(64, HIDDEN, dtype=dtype, seed=100 + seed)

        def block(a, b):
            return linear(torch.cat((a, b), dim=-1), weight)

        compiled = torch.compile(block, fullgraph=True, backend=fusing(seen))(a, b)
        assert (OF_TWO in seen.targets) == fused
        exact = linear(torch.cat((a, b), dim=-1).double(), weight.double())
        ratios.append(((compiled - exact).norm() / (block(a, b) - exact).norm()).item())
        torch._dynamo.reset()
    assert sum(ratios) / len(ratios) < 1.3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("function", FUSED, ids=lambda function: function.__name__)
def test_on_a_gpu(function, dtype):
    """Not farther from fp64 than without, but for the rounding between the two parts of a sum."""
    x = random(1, 200, WIDTH)
    exact = function(x)
    weights = {name: globals()[name].to("cuda", dtype) for name in ("UP", "UP_BIAS", "DOWN", "DOWN_BIAS")}
    with pytest.MonkeyPatch.context() as patch:
        for name, weight in weights.items():
            patch.setitem(globals(), name, weight)
        seen, x = Seen(), x.to("cuda", dtype)
        compiled = torch.compile(function, fullgraph=True, backend=fusing(seen))(x)
        plain = function(x)
    errors = [(output.double().cpu() - exact).norm().item() for output in (compiled, plain)]
    assert errors[0] < 1.3 * errors[1]
    assert torch._C._nn.gelu not in seen.targets


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_norms_read_a_row_once_on_a_gpu():
    x = random(64, 3072, dtype=torch.bfloat16).cuda()

    def norm(x):
        return torch.nn.functional.layer_norm(x, (3072,)) * 2

    compiled = torch.compile(norm, fullgraph=True, backend=fusing("inductor"))
    found, (code,) = torch._inductor.utils.run_and_get_code(compiled, x)
    assert "triton_per" in code and "triton_red" not in code
    torch.testing.assert_close(found, norm(x), rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("dim", "length"), [(64, 64), (96, 64), (128, 37), (256, 64)])
def test_a_warp_has_several_heads_on_a_gpu(dim, length):
    """Norms of queries and keys with rotary positions, in one kernel; not farther from fp64 than without compiling."""
    exact = random(1, length, 9 * dim), random(2, dim), random(1, 1, length, dim // 2, 2, 2)

    def queries_keys(qkv, weights, positions):
        pair = qkv.view(1, length, 3, 3, dim).permute(2, 0, 3, 1, 4)[:2]
        normed = [
            torch.nn.functional.rms_norm(part, (dim,), weight) for part, weight in zip(pair, weights, strict=True)
        ]
        return [rotated(part, positions).transpose(1, 2).contiguous() for part in normed]

    def rotated(x, positions):
        pairs = x.reshape(*x.shape[:-1], -1, 1, 2)
        return (positions[..., 0] * pairs[..., 0] + positions[..., 1] * pairs[..., 1]).reshape(x.shape).type_as(x)

    inputs = [value.to("cuda", torch.bfloat16) for value in exact[:2]] + [exact[2].float().cuda()]
    compiled = torch.compile(queries_keys, fullgraph=True, backend=fusing("inductor"))
    found, (code,) = torch._inductor.utils.run_and_get_code(compiled, *inputs)
    assert "triton_heuristics.fixed_config" in code
    wanted = queries_keys(*(value.double() for value in inputs))
    for here, plain, right in zip(found, queries_keys(*inputs), wanted, strict=True):
        assert (here - right).norm() <= 1.01 * (plain - right).norm()
