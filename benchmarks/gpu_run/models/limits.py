"""The arithmetic limit: the floating-point operations of a sampling step, counted on meta tensors."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from .job import Case, Job

TFLOPS = 790  # per second; what the fastest bf16 GEMMs of these models reach on an H200
VAE_SIDE, VAE_FRAMES = 8, 4
CHANNELS = {"EmptyLatentImage": 4, "EmptySD3LatentImage": 16, "EmptyHunyuanLatentVideo": 16}


def step_flops(job: Job, case: Case) -> int:
    """Operations of one step: every condition of every image, one model call each. A multiply-add is two.

    Matrix products, convolutions and attention are counted (torch.utils.flop_counter); element-wise work is not.
    """
    tokens = case.tokens[:1] if case.cfg == 1.0 else case.tokens
    model = job.module().eval()
    return case.latent[1]["batch_size"] * sum(_call(model, job, case, length) for length in tokens)


def limit_ms(flops: int, ranks: int, tflops: float = TFLOPS) -> float:
    """Milliseconds below which no step can be, were every device always at `tflops`."""
    return flops / ranks / tflops / 1e9


def latent_shape(job: Job, case: Case) -> tuple[int, ...]:
    """Of one image or video as the model takes it."""
    node, inputs = case.latent
    area = inputs["height"] // VAE_SIDE, inputs["width"] // VAE_SIDE
    if "length" in inputs:
        return 1, CHANNELS[node], (inputs["length"] - 1) // VAE_FRAMES + 1, *area
    return 1, CHANNELS[node], *([1] if job.video else []), *area


def _call(model: torch.nn.Module, job: Job, case: Case, tokens: int) -> int:
    import comfy.ldm.modules.attention

    def whole(_, *args, **kwargs):
        return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    others = {"y": empty(1, job.vector)} if job.vector else {}
    others |= {"guidance": empty(1)} if job.guidance >= 0 else {}
    options = {"optimized_attention_override": whole}
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        latent, context = empty(*latent_shape(job, case)), empty(1, tokens, job.context)
        model(latent, empty(1), context, transformer_options=options, **others)
    return counter.get_total_flops()
