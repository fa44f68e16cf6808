"""ComfyUI's own Flux with random weights: as ComfyUI runs it, and as the ranks of this pack do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .pack import ROOT, import_pack
from .shape import PIXELS_PER_TOKEN, Shape

MODES = ("eager", "compiled")


@dataclass(frozen=True)
class Kind:
    """What a ComfyEngine is: ComfyUI as it comes, or this pack, by ulysses or by a ring; bf16 weights or scaled fp8.

    exact: bf16 weights and inputs, but computed in fp32.
    """

    stock: bool
    ring: bool = False
    fp8: bool = False
    exact: bool = False


KINDS = {
    "exact": Kind(stock=True, exact=True),
    "stock": Kind(stock=True),
    "pack": Kind(stock=False),
    "pack-ring": Kind(stock=False, ring=True),
    "stock-fp8": Kind(stock=True, fp8=True),
    "pack-fp8": Kind(stock=False, fp8=True),
    "pack-ring-fp8": Kind(stock=False, ring=True, fp8=True),
}


class ComfyEngine:
    """One rank's model. `modes` of "stock" is eager; of "pack": eager, and compiled with CUDA graphs."""

    def __init__(self, kind: Kind, shape: Shape, size: int, device: torch.device):
        stock = kind.stock
        self.modes = MODES[:1] if stock or device.type == "cpu" else MODES
        self._device, self._shape, self._stock = device, shape, stock
        self._dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._model = _random_flux(shape, device, self._dtype, kind.fp8)
        self._computed = self._dtype
        if kind.exact:
            self._computed = self._model.dtype = torch.float32
            self._model.float()
        self._contexts: list = []
        if stock:
            return
        import_pack()
        from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
        from xdit_comfyui.parallel_backend.rank.attention.kernels import attention_kernel
        from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        sharded = ShardedModel(self._model, plan_for(self._model))
        sharded.session = _session(kind, size, device) if size > 1 else None
        self._accelerated = accelerate(self._model, sharded) if device.type == "cuda" else None
        self._identity = (size,)
        self._contexts.append(attention_kernel("auto"))  # until this process ends
        kernel_with_lse = self._contexts[0].__enter__()
        if sharded.session is not None:
            sharded.session.kernel_with_lse = kernel_with_lse

    def prepare(self, pixels: int, mode: str, seed: int = 1) -> Callable[[], torch.Tensor]:
        """A call on one random image of `pixels` × `pixels`; its output is the latent's shape."""
        if not self._stock and self._accelerated is not None:
            self._accelerated.stop()
            if mode == "compiled":
                self._accelerated.start(lambda line: print(line, flush=True), self._identity, True)
        side, generator = pixels * 2 // PIXELS_PER_TOKEN, torch.Generator().manual_seed(seed)

        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(self._device, self._dtype).to(self._computed)

        x, context = randn(1, 16, side, side), randn(1, self._shape.text, self._shape.context)
        y = randn(1, self._shape.pooled)
        guidance = torch.tensor([3.5], device=self._device, dtype=self._computed)
        time = torch.tensor([0.5], device=self._device)
        return lambda: self._model(x, time, context, y=y, guidance=guidance, transformer_options={})


def _session(kind: Kind, size: int, device: torch.device):
    from xdit_comfyui.parallel_backend.rank.run.mesh import written_directly
    from xdit_comfyui.parallel_backend.sharding.engine.session import Session
    from xdit_comfyui.parallel_backend.sharding.exchange.collectives import new_sequence_groups

    ulysses, ring = (1, size) if kind.ring else (size, 1)
    groups = new_sequence_groups([range(size)], ulysses, ring)
    return Session(written_directly(groups, device) if device.type == "cuda" else groups)


def _random_flux(shape: Shape, device: torch.device, dtype: torch.dtype, fp8: bool) -> torch.nn.Module:
    model = _flux(shape, device, dtype, None)
    fill(model)
    if not fp8:
        return model
    import comfy.ops

    sys.path.append(str(ROOT / "tests"))
    from support.quantised import quantised

    weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    del model
    model = _flux(shape, device, dtype, comfy.ops.mixed_precision_ops({}, dtype))
    # Blocks only, as published files have it.
    model.load_state_dict(quantised(weights, "_blocks.", "float8_e4m3fn"))
    return model.to(device).eval().requires_grad_(False)


def _flux(shape: Shape, device: torch.device, dtype: torch.dtype, operations) -> torch.nn.Module:
    from comfy.cli_args import args

    args.cpu = device.type == "cpu"
    import comfy.ldm.flux.model
    import comfy.ops

    return comfy.ldm.flux.model.Flux(
        in_channels=16,
        out_channels=16,
        vec_in_dim=shape.pooled,
        context_in_dim=shape.context,
        hidden_size=shape.heads * shape.head,
        mlp_ratio=4.0,
        num_heads=shape.heads,
        depth=shape.double,
        depth_single_blocks=shape.single,
        axes_dim=list(shape.axes),
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=True,
        txt_ids_dims=[],
        device=device,
        dtype=dtype,
        operations=operations or comfy.ops.disable_weight_init,
    )


def fill(model: torch.nn.Module) -> None:
    """Random weights that keep activations of order one, the same on every rank."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.normal_(0, fan_in**-0.5 if parameter.ndim > 1 else 0.1)
            if "norm" in name and name.endswith(("weight", "scale")):
                parameter.add_(1)
    model.eval().requires_grad_(False)
