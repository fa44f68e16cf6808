"""xDiT: diffusers' FluxTransformer2DModel in xfuser's own wrapper, as xfuser's own runner for FLUX.1-dev makes it.

xfuser/model_executor/models/runner_models/flux.py of xfuser 0.7: xFuserFlux1Transformer2DWrapper, Ulysses, the
attention kernel that xfuser picks, the whole transformer compiled in mode "reduce-overhead" with its passes for
overlapping computation and communication. What its pipeline does around the transformer (text encoders, VAE) is left
out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace

import torch

from .comfy_engines import fill
from .shape import PIXELS_PER_TOKEN, Shape

COMPILE_MODES = {"compiled, no graphs": "default", "compiled": "reduce-overhead"}
MODES = ("eager", *COMPILE_MODES)
OVERLAP_PASSES = ["reorder_compute_for_overlap", "sink_waits", "raise_comms"]


class XditEngine:
    """One rank's model, divided by Ulysses over `size` ranks. The world's process group has to be there."""

    def __init__(self, shape: Shape, rank: int, size: int, device: torch.device):
        self.modes = MODES[:1] if device.type == "cpu" else MODES
        self._device, self._shape = device, shape
        self._dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        on_gpu = device.type == "cuda"
        os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(size))
        if not on_gpu:
            _allow_cpu()
        from xfuser.config import xFuserArgs
        from xfuser.core.distributed import (
            init_distributed_environment,
            initialize_model_parallel,
            initialize_runtime_state,
        )

        backend = "nccl" if on_gpu else "gloo"
        init_distributed_environment(size, rank, "made already", rank, backend)
        initialize_model_parallel(sequence_parallel_degree=size, ulysses_degree=size, backend=backend)
        from xfuser.model_executor.models.transformers.transformer_flux import xFuserFlux1Transformer2DWrapper

        if not on_gpu:
            _give_usp_its_groups()
        before = torch.get_default_dtype()
        torch.set_default_dtype(self._dtype)
        try:
            with device:
                self._model = xFuserFlux1Transformer2DWrapper(
                    num_layers=shape.double,
                    num_single_layers=shape.single,
                    attention_head_dim=shape.head,
                    num_attention_heads=shape.heads,
                    joint_attention_dim=shape.context,
                    pooled_projection_dim=shape.pooled,
                    guidance_embeds=True,
                    axes_dims_rope=shape.axes,
                )
        finally:
            torch.set_default_dtype(before)
        fill(self._model)
        kernel = None if on_gpu else "SDPA"  # None: xfuser picks
        config, _ = xFuserArgs(ulysses_degree=size, attention_backend=kernel).create_config()
        initialize_runtime_state(SimpleNamespace(transformer=self._model, vae_scale_factor=8), config)

    def prepare(self, pixels: int, mode: str) -> Callable[[], torch.Tensor]:
        """A call on one image of `pixels` × `pixels`; its output is B, tokens, 64."""
        from xfuser.core.distributed import get_runtime_state

        text, side = self._shape.text, pixels // PIXELS_PER_TOKEN
        get_runtime_state().set_input_parameters(
            height=pixels, width=pixels, batch_size=1, num_inference_steps=1, max_condition_sequence_length=text
        )
        generator = torch.Generator().manual_seed(1)

        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(self._device, self._dtype)

        positions = torch.zeros(side, side, 3)
        positions[..., 1], positions[..., 2] = torch.arange(side)[:, None], torch.arange(side)[None]
        inputs = {
            "hidden_states": randn(1, side * side, 64),
            "encoder_hidden_states": randn(1, text, self._shape.context),
            "pooled_projections": randn(1, self._shape.pooled),
            "timestep": torch.tensor([0.5], device=self._device, dtype=self._dtype),
            "guidance": torch.tensor([3.5], device=self._device),
            "img_ids": positions.reshape(-1, 3).to(self._device, self._dtype),
            "txt_ids": torch.zeros(text, 3, device=self._device, dtype=self._dtype),
        }
        model = self._compiled(COMPILE_MODES[mode]) if mode in COMPILE_MODES else self._model
        return lambda: model(**inputs, return_dict=False)[0]

    def _compiled(self, mode: str) -> torch.nn.Module:
        """For one size at a time: what was compiled for another is dropped, so that shapes stay static."""
        torch._dynamo.reset()
        torch._inductor.config.reorder_for_compute_comm_overlap = True
        torch._inductor.config.reorder_for_compute_comm_overlap_passes = OVERLAP_PASSES
        return torch.compile(self._model, mode=mode)


def _allow_cpu() -> None:
    """xfuser 0.7 takes a machine without a GPU for one without yunchang, and sets a CUDA device all the same."""
    import xfuser.envs
    from xfuser.config import config
    from xfuser.core.distributed import group_coordinator, parallel_state

    xfuser.envs._is_cuda = lambda: False
    for module in (config, group_coordinator, parallel_state):
        module.HAS_LONG_CTX_ATTN = True


def _give_usp_its_groups() -> None:
    from xfuser.model_executor.layers import usp
    from yunchang.globals import PROCESS_GROUP

    usp.PROCESS_GROUP = PROCESS_GROUP
