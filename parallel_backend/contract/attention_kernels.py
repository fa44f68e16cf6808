"""The attention kernels that this pack knows, one row each.

Parallel Config's choices, the trials of the ranks, what the doctor says of each and the table of the help page are read
from here; how a kernel is called stands in rank/attention/.
"""

from __future__ import annotations

from dataclasses import dataclass, field

AUTO, COMFYUI = "auto", "comfyui"
CUDNN, FLASH, FLASH3 = "cudnn", "flash", "flash3"
EFFICIENT, MATH, FLASH2, SAGE, XFORMERS = "efficient", "math", "flash2", "sage", "xformers"


@dataclass(frozen=True)
class AttentionKernel:
    """One kernel.

    `name`: its spelling in Parallel Config, in the doctor's report and in files of measurements. `package`: importable
    module → distribution that brings it, the first that works is taken; empty for what torch has. `version`: which
    versions serve. `gpus`: on which it runs. `exact`: whether its result is attention's up to rounding. `lse`: whether
    this pack gets the log-sum-exp from it, so that a ring can take it. `offered`: whether Parallel Config lets it be
    chosen. `used`: when it serves.
    """

    name: str
    title: str
    version: str
    gpus: str
    used: str
    package: dict[str, str] = field(default_factory=dict)
    exact: bool = True
    lse: bool = False
    offered: bool = False


KERNELS = {
    kernel.name: kernel
    for kernel in (
        AttentionKernel(
            name=CUDNN,
            title="cuDNN",
            version="PyTorch's",
            gpus="Ampere and newer",
            used="attention cudnn; auto, from Hopper on, where no other is faster",
            lse=True,
            offered=True,
        ),
        AttentionKernel(
            name=FLASH,
            title="FlashAttention 2 in PyTorch",
            version="PyTorch's",
            gpus="Ampere and newer",
            used="attention flash; auto, up to Ada, where no other is faster",
            lse=True,
            offered=True,
        ),
        AttentionKernel(
            name=FLASH3,
            title="FlashAttention 3",
            version="fa3-fwd (bf16, PyTorch 2.10 and newer) or the official package (fp16 too)",
            gpus="Hopper",
            used="attention flash3; auto, on Hopper, where no other is faster",
            package={"flash_attn_interface": "flash_attn_3", "fa3_fwd_interface": "fa3-fwd"},
            lse=True,
            offered=True,
        ),
        AttentionKernel(
            name=EFFICIENT,
            title="memory-efficient attention in PyTorch",
            version="PyTorch's",
            gpus="all",
            used="where faster ones cannot, with masks for example",
        ),
        AttentionKernel(
            name=MATH,
            title="plain arithmetic in PyTorch",
            version="PyTorch's",
            gpus="all",
            used="the last resort, slow",
        ),
        AttentionKernel(
            name=FLASH2,
            title="FlashAttention 2",
            version="any that ComfyUI takes",
            gpus="Ampere and newer",
            used="ComfyUI's --use-flash-attention",
            package={"flash_attn": "flash-attn"},
        ),
        AttentionKernel(
            name=SAGE,
            title="SageAttention",
            version="any that ComfyUI takes",
            gpus="Ampere and newer",
            used="ComfyUI's --use-sage-attention",
            package={"sageattention": "sageattention"},
            exact=False,
        ),
        AttentionKernel(
            name=XFORMERS,
            title="xFormers",
            version="any that ComfyUI takes",
            gpus="all",
            used="by ComfyUI when installed, unless --disable-xformers",
            package={"xformers": "xformers"},
        ),
    )
}
CHOICES = (AUTO, COMFYUI, *(kernel.name for kernel in KERNELS.values() if kernel.offered))
MODULES = tuple(module for kernel in KERNELS.values() for module in kernel.package)


def as_markdown() -> str:
    """The table of the help page."""
    rows = ["| Kernel | | Package | GPUs | Result | In a ring | Used |", "|---|---|---|---|---|---|---|"]
    for kernel in KERNELS.values():
        result, ring = "exact" if kernel.exact else "approximate", "yes" if kernel.lse else "no"
        name = f"**{kernel.name}**" if kernel.offered else kernel.name
        rows.append(
            f"| {name} | {kernel.title} | {kernel.version} | {kernel.gpus} | {result} | {ring} | {kernel.used} |"
        )
    return "\n".join(rows)
