"""One rank of one engine: builds the model, times each size in each mode; rank 0 writes what it found as JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.distributed as dist
from model_calls import apart
from step_profile import kernels_of

from direct.comfy_engines import KINDS, ComfyEngine
from direct.shape import FLUX_DEV, TINY
from direct.timing import timed

MOST_CHARACTERS = 600
LONGEST = 24  # kernels of a profile that are listed
SEEDS = range(1, 6)  # whose outputs are compared with exact ones


def engine_of(name: str, options: argparse.Namespace, device: torch.device):
    shape = TINY if options.tiny else FLUX_DEV
    if name == "xdit":
        from direct.xdit_engine import XditEngine

        return XditEngine(shape, options.rank, options.size, device)
    return ComfyEngine(KINDS[name], shape, options.size, device)


def serve(options: argparse.Namespace) -> None:
    device = torch.device("cpu") if options.tiny else torch.device("cuda", options.rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    store = dist.FileStore(options.store, options.size)
    backend = "gloo" if options.tiny else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=options.rank, world_size=options.size)
    engine = engine_of(options.engine, options, device)
    for mode in [mode for mode in engine.modes if mode in options.modes] or engine.modes[:1]:
        for pixels in options.pixels:
            row = {"engine": options.engine, "gpus": options.size, "mode": mode, "pixels": pixels}
            try:
                row |= measured(engine, row, options)
            except Exception as error:  # the other modes may do; ranks fail alike when a mode cannot be had
                traceback.print_exc()
                row["error"] = f"{type(error).__name__}: {error}"[:MOST_CHARACTERS]
            if options.rank == 0:
                with open(options.out, "a") as out:
                    out.write(json.dumps(row) + "\n")


def measured(engine, row: dict, options: argparse.Namespace) -> dict:
    call = engine.prepare(row["pixels"], row["mode"])
    times, output = timed(call, options.calls, options.rows)
    off = off_one_gpu(output.float().cpu(), Path(options.outputs), row) if options.rank == 0 else None
    found = {"ms": times, "off_one_gpu": off, "off_exact": off_exact(engine, row, options)}
    if not options.profile:
        return found
    kernels = kernels_of(call)
    return {**found, "profile": kernels.by_kind(), "longest": kernels.longest(LONGEST)}


def off_one_gpu(output: torch.Tensor, folder: Path, row: dict) -> float | None:
    """Relative difference from the same engine's eager output on one GPU; None where that was not measured."""
    kept = folder / f"{row['engine'].replace('-ring', '')}-{row['pixels']}.pt"
    if row["gpus"] == 1 and row["mode"] == "eager":
        torch.save(output, kept)
    if not kept.exists():
        return None
    return apart(output, torch.load(kept))


def off_exact(engine, row: dict, options: argparse.Namespace) -> list[float] | None:
    """Relative difference from the engine "exact" for each seed, on rank 0; None where that was not run."""
    if row["engine"] == "xdit":  # other weights
        return None
    kept = Path(options.outputs) / f"exact-{row['pixels']}-every-seed.pt"
    if row["engine"] != "exact" and not kept.exists():
        return None
    outputs = [engine.prepare(row["pixels"], row["mode"], seed)().float().cpu() for seed in SEEDS]
    if row["engine"] == "exact":
        torch.save(outputs, kept)
    return [apart(found, exact) for found, exact in zip(outputs, torch.load(kept), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=(*KINDS, "xdit"), required=True)
    for name in ("rank", "size", "calls", "rows"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("store", "out", "outputs", "comfyui"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--pixels", type=int, nargs="+", required=True)
    parser.add_argument("--modes", nargs="+", required=True)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, options.comfyui)
    sys.argv = sys.argv[:1]
    with torch.inference_mode():
        serve(options)
    sys.stdout.flush()
    os._exit(0)  # without waiting for NCCL's own end


if __name__ == "__main__":
    main()
