"""ComfyUI's linear layers with scaled fp8 weights in a form that the compiler can take.

ComfyUI hands a quantised tensor object to torch's linear, which the compiler cannot look through. Inside a compiled
block the same arithmetic is written in plain operations: input / scale, rounded to fp8 (fused into the kernel that
makes the input), a scaled fp8 matrix product, bias. Outside of compiled blocks, and for what this does not fit,
nothing changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from comfy.quant_ops import QuantizedTensor

LAYOUT = "TensorCoreFP8E4M3Layout"
FP8 = torch.float8_e4m3fn
HALF = (torch.bfloat16, torch.float16)  # on GPUs the product with a bias gives nothing else
ALIGNED = 16  # what the matrix product wants of both sides of the weight


def open_to_the_compiler(block: torch.nn.Module) -> None:
    """Let the compiler see through the linear layers of `block`. Their class is made by ComfyUI for each model."""
    for module in block.modules():
        if isinstance(getattr(module, "weight", None), QuantizedTensor):
            _open(type(module))


def _open(linear: Any) -> None:
    if hasattr(linear.forward, "xdit_opened"):
        return
    linear.forward = _opened(linear.forward)
    linear.forward.xdit_opened = True


def _opened(original: Callable) -> Callable:
    @functools.wraps(original)
    def forward(self, input, *args, **kwargs):
        if torch.compiler.is_compiling() and _fits(self, input):
            return _scaled_linear(self, input)
        return original(self, input, *args, **kwargs)

    return forward


def _fits(module: Any, input: torch.Tensor) -> bool:
    """Whether ComfyUI's forward of this linear layer would multiply in fp8: the conditions are its own, and those of
    the product.
    """
    return (
        getattr(module, "layout_type", None) == LAYOUT
        and isinstance(module.weight, QuantizedTensor)
        and not module._full_precision_mm
        and not getattr(module, "comfy_force_cast_weights", False)
        and getattr(module, "pre_quant_scale", None) is None
        and len(module.weight_function) == 0
        and len(module.bias_function) == 0
        and input.ndim >= 2
        and input.numel() > 0
        and (input.dtype in HALF or input.device.type == "cpu")
        and module.in_features % ALIGNED == 0
        and module.out_features % ALIGNED == 0
    )


def _scaled_linear(module: Any, input: torch.Tensor) -> torch.Tensor:
    rows = input.reshape(-1, input.shape[-1])
    scale = getattr(module, "input_scale", None)
    if scale is None:
        scale = torch.ones((), device=input.device, dtype=torch.float32)
    else:
        scale = scale.to(device=input.device, dtype=torch.float32)
    most = torch.finfo(FP8).max
    rows = (rows.float() / scale).clamp(-most, most).to(FP8)
    weight, bias = module.weight, module.bias
    out = torch._scaled_mm(
        rows,
        weight._qdata.t(),
        scale_a=scale,
        scale_b=weight._params.scale,
        bias=None if bias is None else bias.to(input.dtype),
        out_dtype=input.dtype,
    )
    return out.reshape(*input.shape[:-1], out.shape[-1])
