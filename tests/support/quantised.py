"""Weight files in the quantised formats that ComfyUI reads, made from a model's fp32 weights."""

import json

import torch

# Format as in a file's comfy_quant → layout of comfy_kitchen. "fp8": plain fp8 tensors, without scales.
LAYOUTS = {
    "float8_e4m3fn": "TensorCoreFP8E4M3Layout",
    "float8_e5m2": "TensorCoreFP8E5M2Layout",
    "mxfp8": "TensorCoreMXFP8Layout",
    "nvfp4": "TensorCoreNVFP4Layout",
    "int8_tensorwise": "TensorWiseINT8Layout",
    "convrot_w4a4": "TensorCoreConvRotW4A4Layout",
}
FORMATS = ("fp8", *LAYOUTS)


def quantised(weights: dict[str, torch.Tensor], where: str, kind: str) -> dict[str, torch.Tensor]:
    """`weights` with every matrix that has `where` in its name in the format `kind`."""
    made = {}
    for name, value in weights.items():
        if value.ndim != 2 or where not in name:
            made[name] = value
        elif kind == "fp8":
            made[name] = value.to(torch.float8_e4m3fn)
        else:
            made |= _quantised(name.removesuffix(".weight"), value, kind)
    return made


def _quantised(name: str, value: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
    from comfy.quant_ops import QuantizedTensor

    options = {"scale": "recalculate"} if kind.startswith("float8") else {}
    tensor = QuantizedTensor.from_float(value, LAYOUTS[kind], **options)
    made = {key: part.contiguous() for key, part in tensor.state_dict(f"{name}.weight").items()}
    return made | {f"{name}.comfy_quant": torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)}
