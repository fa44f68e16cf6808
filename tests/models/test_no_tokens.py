"""What a block's modules make of a stream without tokens in a patch."""

import pytest
import torch
from support.quantised import LAYOUTS, quantised
from xdit_comfyui.parallel_backend.sharding.pipeline.empty_patches import shapes_without_tokens, spare_linears

WIDTH, HIDDEN = 64, 128


def test_shapes_are_those_of_any_other_length():
    with shapes_without_tokens():
        for length in (0, 5):
            x = torch.ones(2, length, 3 * WIDTH)
            assert x.view(2, length, 3, 4, -1).shape == (2, length, 3, 4, 16)
            assert x.reshape(2, length, -1, 16).reshape(2, length, -1).shape == x.shape
            assert x.view(-1, 3 * WIDTH).shape == (2 * length, 3 * WIDTH)
    assert not {"view", "reshape"} & vars(torch.Tensor).keys()


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "nvfp4"])
@torch.inference_mode()
def test_linears_of_no_rows_leave_their_weights_alone(kind):
    from comfy.ops import mixed_precision_ops

    def patched(weight):
        raise AssertionError("patched")

    assert kind in LAYOUTS
    linear = mixed_precision_ops({}, torch.float32).Linear(WIDTH, HIDDEN)
    weights = {"weight": torch.randn(HIDDEN, WIDTH), "bias": torch.randn(HIDDEN)}
    made = quantised({f"a.{name}": value for name, value in weights.items()}, "a.", kind)
    linear.load_state_dict({name.removeprefix("a."): value for name, value in made.items()})
    x = torch.randn(2, 3, WIDTH)
    before = linear(x)
    for _ in range(2):
        spare_linears([linear])
    assert torch.equal(linear(x), before)
    linear.weight_function = [patched]
    assert linear(x[:, :0]).shape == (2, 0, HIDDEN)
    with pytest.raises(AssertionError, match="patched"):
        linear(x)
