"""One call of a full-size diffusion model: whole on one GPU, and divided over all GPUs by ulysses.

    python benchmarks/model_calls.py --comfyui PATH --json FILE          # one rank per CUDA device

Random bf16 weights, made on each GPU. Prints for each model and size: milliseconds a call (median) on one GPU with
ComfyUI's order of attention kernels and with cuDNN first, on all GPUs with cuDNN first, the ratios, and the relative
difference of the outputs, beside that of the two kernels on one GPU. --profile adds where the time of a call goes on
rank 0: attention, GEMM, collectives, copies, element-wise kernels, idle.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from direct.launch import one_rank_per_gpu
from direct.pack import import_pack
from step_profile import profiled

CALLS = 3


def wan(frames: int, height: int, width: int):
    def build(**kwargs):
        from comfy.ldm.wan.model import WanModel

        return WanModel(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, text_dim=4096, **kwargs)

    def inputs(randn):
        return (randn(1, 16, frames, height, width), torch.tensor([500.0], device="cuda"), randn(1, 512, 4096)), {}

    return build, inputs


def qwen_image(height: int, width: int):
    def build(**kwargs):
        from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

        return QwenImageTransformer2DModel(num_layers=60, joint_attention_dim=3584, in_channels=64, **kwargs)

    def inputs(randn):
        return (randn(1, 16, 1, height, width), torch.tensor([0.5], device="cuda"), randn(1, 300, 3584)), {}

    return build, inputs


def flux(height: int, width: int):
    def build(**kwargs):
        from comfy.ldm.flux.model import Flux

        return Flux(
            in_channels=16,
            out_channels=16,
            vec_in_dim=768,
            context_in_dim=4096,
            hidden_size=3072,
            mlp_ratio=4.0,
            num_heads=24,
            depth=19,
            depth_single_blocks=38,
            axes_dim=[16, 56, 56],
            theta=10000,
            patch_size=2,
            qkv_bias=True,
            guidance_embed=True,
            txt_ids_dims=[],
            **kwargs,
        )

    def inputs(randn):
        guidance = torch.tensor([3.5], device="cuda", dtype=torch.bfloat16)
        step = torch.tensor([0.5], device="cuda")
        return (randn(1, 16, height, width), step, randn(1, 512, 4096)), {"y": randn(1, 768), "guidance": guidance}

    return build, inputs


CASES = {
    "FLUX.1-dev, 1024²": flux(128, 128),
    "FLUX.1-dev, 2048²": flux(256, 256),
    "Qwen-Image 20B, 1328²": qwen_image(166, 166),
    "Wan 14B, 480p, 81 frames": wan(21, 60, 104),
    "Wan 14B, 720p, 81 frames": wan(21, 90, 160),
}


def random_model(build) -> torch.nn.Module:
    import comfy.ops

    model = build(device="cuda", dtype=torch.bfloat16, operations=comfy.ops.disable_weight_init)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.normal_(0, fan_in**-0.5 if parameter.ndim > 1 else 0.1)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model.eval().requires_grad_(False)


def timed(call) -> tuple[float, torch.Tensor]:
    """Milliseconds (median) and the output."""
    output, times = call(), []
    for _ in range(CALLS):
        torch.cuda.synchronize()
        dist.barrier()
        began = time.perf_counter()
        output = call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times), output.float()


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def serve(rank: int, size: int, store: str, options: argparse.Namespace) -> None:
    torch.cuda.set_device(rank)
    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.FileStore(store, size), rank=rank, world_size=size)
    import_pack()
    from xdit_comfyui.parallel_backend.rank.attention.kernel_choice import attention_kernel
    from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
    from xdit_comfyui.parallel_backend.sharding.engine.session import Session
    from xdit_comfyui.parallel_backend.sharding.exchange.collectives import new_sequence_groups
    from xdit_comfyui.parallel_backend.sharding.plans import plan_for

    groups = new_sequence_groups([range(size)], size, 1)
    rows, model, built = [], None, None
    for name in chosen(options.cases):
        build, inputs = CASES[name]
        if built != build.__qualname__:
            model = None
            torch.cuda.empty_cache()
            model, built = random_model(build), build.__qualname__
            sharded = ShardedModel(model, plan_for(model))
        generator = torch.Generator("cuda").manual_seed(1)

        def randn(*shape, generator=generator):
            return torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)

        args, kwargs = inputs(randn)

        def call(model=model, args=args, kwargs=kwargs):
            return model(*args, transformer_options={}, **kwargs)

        sharded.session = None
        with attention_kernel("comfyui"):
            stock_ms, stock = timed(call)
            profiles = {"one_gpu_comfyui": profiled(call)} if options.profile else {}
        with attention_kernel("cudnn"):
            one_ms, one = timed(call)
            if options.profile:
                profiles["one_gpu_cudnn"] = profiled(call)
            sharded.session = Session(groups)
            all_ms, divided = timed(call)
            if options.profile:
                profiles["all_gpus_cudnn"] = profiled(call)
        row = {
            "case": name,
            "gpus": size,
            "one_gpu_comfyui_ms": stock_ms,
            "one_gpu_cudnn_ms": one_ms,
            "all_gpus_cudnn_ms": all_ms,
            "over_one_gpu": one_ms / all_ms,
            "over_stock_kernels": stock_ms / all_ms,
            "difference_of_kernels": apart(one, stock),
            "difference_divided": apart(divided, one),
        }
        rows.append({**row, "profiles": profiles} if profiles else row)
        if rank == 0:
            for who, kinds in profiles.items():
                print(f"{name}, {who}, ms:", {kind: round(ms, 2) for kind, ms in kinds.items()}, flush=True)
            print(
                {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )
            about = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "command": "model_calls.py"}
            Path(options.json).write_text(json.dumps({"about": about, "rows": rows}, indent=1))
    os._exit(0)  # without waiting for NCCL's own end


def chosen(words: list[str]) -> list[str]:
    """The cases whose names contain one of `words`, all without any."""
    return [name for name in CASES if not words or any(word.lower() in name.lower() for word in words)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True)
    parser.add_argument("--json", required=True)
    parser.add_argument("--cases", nargs="*", default=[], help="words of the names of the cases to run; else all")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--store")
    options = parser.parse_args()
    size = torch.cuda.device_count()
    if options.rank is not None:
        sys.path[:1] = [options.comfyui]  # not this folder
        sys.argv = sys.argv[:1]
        with torch.inference_mode():
            serve(options.rank, size, options.store, options)
    return one_rank_per_gpu(__file__, size)


if __name__ == "__main__":
    sys.exit(main())
