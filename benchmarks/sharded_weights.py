"""FLUX.1-dev's shape with its weights whole on every GPU, divided over all, and divided and offloaded to host memory.

    python benchmarks/sharded_weights.py --comfyui PATH --json FILE [--work FOLDER] [--cap GIB] [--parts eager]
    python benchmarks/sharded_weights.py --comfyui PATH --json FILE --tiny      # tries the harness, on two CPU ranks

Writes a model of random bf16 weights and a LoRA for it (25 GB); one rank for each GPU reads them as the pack's ranks
do. For each way: seconds to load (the file is in the page cache; beside it a plain read of all its bytes by every
rank), GiB of weights that the device holds and GiB at the peak, GiB of host memory that no file backs, milliseconds a
call (median) at 1024² and 2048², eager and compiled, whether the output is bit for bit that of whole weights, and
seconds to set the LoRA and to change its strength. Then, each process limited to --cap GiB, what can be held at all.
"""

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from direct.launch import run_roles, with_roles
from direct.pack import import_pack
from model_calls import apart

GIB = 2**30
WAYS = ("replicate", "shard", "shard + offload")
PARTS = ("eager", "compiled", "capped")
CALLS, WARM_CALLS = 5, 3
STRENGTHS = (0.2, 0.3)


@dataclass
class Measure:
    """What one rank does with the files; every rank does the same at the same time."""

    device: torch.device
    degrees: object
    rank: int
    tokens: int
    context: int
    pooled: int

    def __post_init__(self):
        from xdit_comfyui.parallel_backend.rank.run.mesh import Meshes
        from xdit_comfyui.parallel_backend.rank.weights.weight_groups import WeightGroups

        self.mesh = Meshes(self.device).get(self.degrees)
        self.group = WeightGroups(self.device).get(self.degrees)

    def model(self, path: Path):
        """The patcher of a freshly read header; nothing of its weights is on the device yet."""
        import comfy.sd
        from xdit_comfyui.parallel_backend.contract.recipe import Recipe
        from xdit_comfyui.parallel_backend.rank.process.main import attach_plan
        from xdit_comfyui.parallel_backend.rank.weights.model_store import ModelStore

        store = ModelStore(self.device, attach_plan)
        return store.base(Recipe(comfy.sd.load_diffusion_model, (str(path),)).identity())

    def load(self, patcher, way: str) -> float:
        """Seconds until the weights are where `way` wants them."""
        import comfy.model_management
        from xdit_comfyui.parallel_backend.rank.weights.placement import place

        dist.barrier()
        began = time.perf_counter()
        place([patcher], way, self.degrees, self.rank)
        comfy.model_management.load_models_gpu([patcher])
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        dist.barrier()

    def call(self, model, size: int) -> torch.Tensor:
        generator = torch.Generator(self.device).manual_seed(1)

        def randn(*shape):
            return torch.randn(shape, generator=generator, device=self.device, dtype=model.get_dtype())

        step, guidance = torch.tensor([0.5], device=self.device), torch.tensor([3.5], device=self.device)
        return model.diffusion_model(
            randn(1, 16, size // 8, size // 8),
            step,
            randn(1, self.tokens, self.context),
            y=randn(1, self.pooled),
            guidance=guidance.to(model.get_dtype()),
            transformer_options={},
        )

    def timed(self, model, call: Callable[[], torch.Tensor], calls: int = CALLS) -> tuple[float, torch.Tensor]:
        """Milliseconds (median) and the output, as in one request: the session and the gathers begin and end."""
        from xdit_comfyui.parallel_backend.sharding.engine.session import Session

        model.xdit_sharded.session = Session(self.mesh.sp)
        model.xdit_weights.start(self.group)
        times = []
        for _ in range(WARM_CALLS + calls):
            self.wait()
            began = time.perf_counter()
            output = call()
            self.wait()
            times.append((time.perf_counter() - began) * 1e3)
        model.xdit_weights.stop()
        model.xdit_sharded.session = None
        return sorted(times[WARM_CALLS:])[calls // 2], output.float()


def plain_read(path: Path) -> float:
    """Seconds in which this process reads every byte of a file, beside the other ranks."""
    dist.barrier()
    began, buffer = time.perf_counter(), bytearray(64 << 20)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    dist.barrier()
    return time.perf_counter() - began


def host_gib() -> float:
    """Of this process, without pages of files."""
    (line,) = (
        line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("Anonymous:")
    )
    return int(line.split()[1]) * 1024 / GIB


def allocated_gib(measure: Measure, peak: bool = False) -> float:
    if measure.device.type != "cuda":
        return 0.0
    return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / GIB


def one_way(measure: Measure, way: str, files, sizes, compiled: bool, expected: dict[int, torch.Tensor]) -> dict:
    """The figures of one way. `expected`: outputs of the first way, by size: eager, whole weights."""
    import comfy.sd
    import comfy.utils
    from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate

    if measure.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    patcher = measure.model(files.unet)
    model = patcher.model
    row = {"way": way, "compiled": compiled, "load_seconds": measure.load(patcher, way)}
    row |= {"weights_gib": model.xdit_weights.nbytes / GIB, "allocated_gib": allocated_gib(measure)}
    row |= {"peak_loading_gib": allocated_gib(measure, peak=True), "host_gib": host_gib()}
    if compiled:
        accelerate(model.diffusion_model, model.xdit_sharded).start(print, (), graphs=False)
    for size in sizes:
        row[f"ms_{size}"], output = measure.timed(model, lambda: measure.call(model, size))  # noqa: B023
        expected.setdefault(size, output.cpu())
        if not compiled:
            row[f"equal_{size}"] = torch.equal(output.cpu(), expected[size])
        row[f"difference_{size}"] = apart(output.cpu(), expected[size])
    row["peak_gib"] = allocated_gib(measure, peak=True)
    if not compiled:
        lora = comfy.utils.load_torch_file(str(files.lora))
        for strength, what in zip(STRENGTHS, ("lora_seconds", "strength_change_seconds"), strict=True):
            adapted, _ = comfy.sd.load_lora_for_models(patcher, None, lora, strength, 0)
            row[what] = measure.load(adapted, way)
    release(patcher)
    return row


def release(patcher) -> None:
    import comfy.model_management

    comfy.model_management.unload_model_and_clones(patcher)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def capped(measure: Measure, way: str, files, size: int, cap: float) -> dict:
    """Whether a device of `cap` GiB holds it and makes one image of `size`²."""
    import comfy.model_management

    patcher, row = measure.model(files.unet), {"way": way, "cap_gib": cap, "size": size}
    torch.cuda.set_per_process_memory_fraction(
        cap * GIB / torch.cuda.get_device_properties(measure.device).total_memory
    )
    try:
        measure.load(patcher, way)
        row["ms"], _ = measure.timed(patcher.model, lambda: measure.call(patcher.model, size))
        row["holds"] = True
    except Exception as error:
        if not comfy.model_management.is_oom(error):
            raise
        row |= {"holds": False, "error": str(error).splitlines()[0]}
    release(patcher)
    torch.cuda.set_per_process_memory_fraction(1.0)
    return row


def serve(rank: int, size: int, store: str, options: argparse.Namespace) -> None:
    device = torch.device("cpu") if options.tiny else torch.device("cuda", rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "gloo" if options.tiny else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=dist.FileStore(store, size), rank=rank, world_size=size)
    import_pack()
    from gpu_run.flux.model_files import FLUX_DEV, TINY
    from xdit_comfyui.parallel_backend.contract.config import Degrees
    from xdit_comfyui.parallel_backend.rank.attention.kernel_choice import attention_kernel

    shape = TINY if options.tiny else FLUX_DEV
    files, sizes = Files.below(options.work), (128,) if options.tiny else (1024, 2048)
    measure = Measure(device, Degrees(ulysses=size), rank, 512, shape.context, shape.pooled)
    rows = [{"plain_read_seconds": plain_read(files.unet), "file_gib": files.unet.stat().st_size / GIB}]
    expected: dict[int, torch.Tensor] = {}

    def keep(row: dict) -> None:
        rows.append(row)
        if rank == 0:
            print(
                {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )
            gpu = "none" if options.tiny else f"{size} × {torch.cuda.get_device_name()}"
            about = {"torch": torch.__version__, "gpu": gpu, "command": "sharded_weights.py"}
            options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")

    keep(rows.pop())
    with attention_kernel("auto"):
        for compiled in (part == "compiled" for part in ("eager", "compiled") if part in options.parts):
            for way in WAYS:
                keep(one_way(measure, way, files, sizes, compiled, expected))
        for way in WAYS if "capped" in options.parts and not options.tiny else ():
            keep(capped(measure, way, files, 1024, options.cap))
    dist.barrier()
    os._exit(0)  # without waiting for NCCL's own end


@dataclass(frozen=True)
class Files:
    unet: Path
    lora: Path

    @classmethod
    def below(cls, work: Path) -> "Files":
        (unet,), (lora,) = work.glob("diffusion_models/*"), work.glob("loras/*")
        return cls(unet, lora)


def make_files(options: argparse.Namespace) -> None:
    """In a process of its own, which gives the GPU back."""
    from gpu_run.flux.model_files import FLUX_DEV, TINY, make_model_files
    from support.comfy import import_comfy

    import_comfy(Path(options.comfyui))
    shape, device = (TINY, "cpu") if options.tiny else (FLUX_DEV, "cuda")
    print(f"{make_model_files(options.work, shape, device).bytes / 1e9:.1f} GB written", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True)
    parser.add_argument("--json", required=True, type=Path)
    parser.add_argument("--work", type=Path, help="where the model files are kept; without it in memory, for this run")
    parser.add_argument("--cap", type=float, default=20.0, help="GiB that each process may take in the last runs")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="what to run, where time is short")
    parser.add_argument("--tiny", action="store_true")
    made = "diffusion_models"
    return run_roles(__file__, with_roles(parser), make_files, serve, lambda work: work.joinpath(made).is_dir())


if __name__ == "__main__":
    sys.exit(main())
