"""Wan 2.2's two 14B models, for high and for low noise, on GPUs of which none could hold both.

    python benchmarks/two_models.py --comfyui PATH --json FILE [--cap GIB]
    python benchmarks/two_models.py --comfyui PATH --json FILE --tiny      # tries the harness, on two CPU ranks

Random bf16 weights; one file under two names, so that the ranks take it for two models. Every process is limited to
--cap GiB. One rank for each GPU loads both, as the pack's ranks do, and calls the one and the other in turn, divided by
ulysses: with the weights replicated, and with the weights divided. Prints for each way whether it holds, seconds to
load, GiB of weights that a device holds, GiB at the peak, and milliseconds a call (median).
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from direct.launch import run_roles, with_roles
from direct.pack import import_pack
from sharded_weights import GIB, Measure, allocated_gib, release

WAYS = ("replicate", "shard")
NAMES = ("high", "low")
CALLS = 3  # of each model, after one that is not counted
LATENT, TINY_LATENT = (1, 16, 9, 60, 104), (1, 16, 3, 16, 16)  # 480p, 33 frames


def call(measure: Measure, model, latent: tuple[int, ...], text: int) -> torch.Tensor:
    generator = torch.Generator(measure.device).manual_seed(1)

    def randn(*shape):
        return torch.randn(shape, generator=generator, device=measure.device, dtype=model.get_dtype())

    step = torch.tensor([500.0], device=measure.device)
    return model.diffusion_model(randn(*latent), step, randn(1, 512, text), transformer_options={})


def one_way(measure: Measure, way: str, files: list[Path], options: argparse.Namespace) -> dict:
    import comfy.model_management

    if measure.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    row, patchers = {"way": way, "cap_gib": options.cap}, []
    try:
        row["load_seconds"] = 0.0
        for file in files:
            patchers.append(measure.model(file))
            row["load_seconds"] += measure.load(patchers[-1], way)
        row["weights_gib"] = sum(patcher.model.xdit_weights.nbytes for patcher in patchers) / GIB
        times = []
        for patcher in patchers:
            ms, _ = measure.timed(patcher.model, lambda: call(measure, patcher.model, *options.inputs), CALLS)  # noqa: B023
            times.append(ms)
        row |= {"holds": True, "ms": max(times), "peak_gib": allocated_gib(measure, peak=True)}
    except Exception as error:
        if not comfy.model_management.is_oom(error):
            raise
        row |= {"holds": False, "error": str(error).splitlines()[0]}
    for patcher in patchers:
        release(patcher)
    return row


def serve(rank: int, size: int, store: str, options: argparse.Namespace) -> None:
    device = torch.device("cpu") if options.tiny else torch.device("cuda", rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(options.cap * GIB / total)
    backend = "gloo" if options.tiny else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=dist.FileStore(store, size), rank=rank, world_size=size)
    import_pack()
    from gpu_run.models.wan import job
    from xdit_comfyui.parallel_backend.contract.config import Degrees
    from xdit_comfyui.parallel_backend.rank.attention.kernel_choice import attention_kernel

    options.inputs = (TINY_LATENT if options.tiny else LATENT, job(options.tiny).context)
    measure = Measure(device, Degrees(ulysses=size), rank, 0, 0, 0)
    files = [options.work / f"{name}.safetensors" for name in NAMES]
    rows = [{"file_gib": files[0].stat().st_size / GIB, "models": len(files)}]
    with attention_kernel("auto"):
        for way in WAYS:
            rows.append(one_way(measure, way, files, options))
            if rank == 0:
                print(rows[-1], flush=True)
                gpu = "none" if options.tiny else f"{size} × {torch.cuda.get_device_name()}"
                about = {"torch": torch.__version__, "gpu": gpu, "command": "two_models.py"}
                options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    dist.barrier()
    os._exit(0)  # without waiting for NCCL's own end


def make_files(options: argparse.Namespace) -> None:
    """In a process of its own, which gives the GPU back."""
    from gpu_run.models.wan import job
    from gpu_run.weights import write_random
    from support.comfy import import_comfy

    import_comfy(Path(options.comfyui))
    wan = job(options.tiny)
    first, *others = (options.work / f"{name}.safetensors" for name in NAMES)
    write_random(first, wan.shapes(), 0, "cpu" if options.tiny else "cuda", wan.metadata)
    for other in others:
        os.link(first, other)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True)
    parser.add_argument("--json", required=True, type=Path)
    parser.add_argument("--work", type=Path, help="where the model file is kept; without it in memory, for this run")
    parser.add_argument("--cap", type=float, default=40.0, help="GiB that each process may take")
    parser.add_argument("--tiny", action="store_true")
    made = f"{NAMES[-1]}.safetensors"
    return run_roles(__file__, with_roles(parser), make_files, serve, lambda work: work.joinpath(made).exists())


if __name__ == "__main__":
    sys.exit(main())
