"""Linear layers as operators, for where what the compiler makes of them takes more passes over memory.

`xdit::linear_gelu` applies the activation in the matrix product's own epilogue, `xdit::linear_of_two` takes an input in
two parts that it need not put together. On GPUs both are cuBLAS.
"""

import torch

EPILOGUE_IN = (torch.bfloat16, torch.float16)  # its gelu is right to 1e-4: less than these round to

_LIBRARY = torch.library.Library("xdit", "FRAGMENT")
_LIBRARY.define("linear_gelu(Tensor input, Tensor weight, Tensor? bias, Tensor? after=None) -> Tensor")
_LIBRARY.define("linear_of_two(Tensor first, Tensor second, Tensor weight, Tensor? bias) -> Tensor")


def _linear_gelu(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, after: torch.Tensor | None = None
) -> torch.Tensor:
    """gelu(input weightᵀ + bias) by tanh: input [..., in], weight [out, in] → [..., out]. `after`: what has to be
    launched before, and nothing else.

    The product is not rounded to the dtype before the activation, which brings it nearer to exact arithmetic.
    """
    if bias is None or not input.is_cuda or input.dtype not in EPILOGUE_IN:
        return torch.nn.functional.gelu(torch.nn.functional.linear(input, weight, bias), approximate="tanh")
    out = torch._addmm_activation(bias, input.flatten(0, -2), weight.t(), use_gelu=True)
    return out.unflatten(0, input.shape[:-1])


def _linear_of_two(
    first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """cat(first, second) weightᵀ + bias: first [..., n], second [..., m], weight [out, n + m] → [..., out].

    The sum over the first part is rounded to the dtype once more before the second is added.
    """
    size = first.shape[-1]
    out = torch.nn.functional.linear(second, weight[:, size:], bias)
    out.flatten(0, -2).addmm_(first.flatten(0, -2), weight[:, :size].t())
    return out


def _shape_of_one(input, weight, bias, after=None):
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


def _shape_of_two(first, second, weight, bias):
    return first.new_empty((*first.shape[:-1], weight.shape[0]))


_LIBRARY.impl("linear_gelu", _linear_gelu, "CompositeExplicitAutograd")
_LIBRARY.impl("linear_gelu", _shape_of_one, "Meta")
_LIBRARY.impl("linear_of_two", _linear_of_two, "CompositeExplicitAutograd")
_LIBRARY.impl("linear_of_two", _shape_of_two, "Meta")
