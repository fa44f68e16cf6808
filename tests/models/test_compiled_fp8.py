"""Linear layers with scaled fp8 weights: compiled as one graph with what surrounds them, and as exact as ComfyUI's."""

import pytest
import torch
from support.quantised import quantised
from xdit_comfyui.parallel_backend.compiled.scaled_fp8 import open_to_the_compiler

WIDTH, HIDDEN, ROWS = 64, 128, 24


class Block(torch.nn.Module):
    def __init__(self, operations, dtype):
        super().__init__()
        self.norm = torch.nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.up = operations.Linear(WIDTH, HIDDEN, dtype=dtype)
        self.down = operations.Linear(HIDDEN, WIDTH, bias=False, dtype=dtype)

    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x)), approximate="tanh"))


@pytest.fixture(scope="module", autouse=True)
def inference():
    torch._dynamo.reset()
    with torch.inference_mode():
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def operations():
    from comfy.ops import mixed_precision_ops

    return mixed_precision_ops({}, torch.float32)


def weights(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"up.weight": (HIDDEN, WIDTH), "up.bias": (HIDDEN,), "down.weight": (WIDTH, HIDDEN)}
    return {name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for name, shape in shapes.items()}


def block(operations, seed, input_scale):
    made = Block(operations, torch.float32)
    content = quantised(weights(seed), "", "float8_e4m3fn")
    if input_scale:
        content |= {"up.input_scale": torch.tensor(0.02), "down.input_scale": torch.tensor(0.01)}
    made.load_state_dict(content)
    open_to_the_compiler(made)
    return made


def exact(seed, x):
    """The same in fp64, with no weight or input rounded."""
    from comfy.ops import disable_weight_init

    made = Block(disable_weight_init, torch.float64)
    made.load_state_dict(weights(seed))
    return made.double()(x.double())


def graphs_compiled():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("input_scale", [False, True], ids=["scale 1", "input scale"])
def test_compiled_as_one_graph_it_is_as_exact_as_comfyui(operations, input_scale):
    x = torch.randn(2, ROWS // 2, WIDTH, generator=torch.Generator().manual_seed(9))
    compiled, before = torch.compile(Block.forward, fullgraph=True), graphs_compiled()
    for seed in (1, 2):  # the second has weights at other places, of the same kind
        made, expected = block(operations, seed, input_scale), exact(seed, x)
        off = error(made(x), expected)
        assert error(compiled(made, x), expected) <= 1.02 * off
        assert off > 1e-3  # fp8 was at work
    assert graphs_compiled() == before + 1


def test_what_it_does_not_fit_is_left_to_comfyui(operations):
    """A weight function (a LoRA that ComfyUI applies while it computes) makes ComfyUI multiply unquantised."""
    made = block(operations, 3, False)
    made.up.weight_function = [lambda weight: weight]
    from xdit_comfyui.parallel_backend.compiled.scaled_fp8 import _fits

    x = torch.randn(ROWS, WIDTH)
    assert _fits(made.down, torch.randn(ROWS, HIDDEN)) and not _fits(made.up, x)
