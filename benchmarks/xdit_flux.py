"""xDiT beside this pack and ComfyUI: one call of a FLUX.1-dev shaped transformer on 1, 2, 4 … GPUs, in one run.

    python benchmarks/xdit_flux.py --comfyui PATH --out FILE          # one rank per CUDA device
    python benchmarks/xdit_flux.py --comfyui PATH --out FILE --tiny   # the same in small, on two CPU ranks

Random bf16 weights, made on each GPU; no text encoder, no VAE, no server. Engines:

- exact: ComfyUI's own class in fp32 with bf16 weights. Run first, it makes the others tell how far they are from it;
- stock: ComfyUI's own class and order of attention kernels, eager, one GPU;
- pack: the same class in this pack's ranks, divided by Ulysses; eager, and compiled with CUDA graphs;
- pack-ring: the same, divided by a ring;
- stock-fp8, pack-fp8, pack-ring-fp8: with the blocks' weights in scaled fp8, through ComfyUI's fp8 matrix products;
- xdit: diffusers' class in xfuser's own wrapper, divided by Ulysses, eager and compiled as xfuser's runner for
  FLUX.1-dev does ("reduce-overhead", which is CUDA graphs), and compiled without graphs.

Every engine runs in processes of its own, one after the other and then in the opposite order; milliseconds are the
median of rows of calls, all ranks starting a row together. Results are written after every engine. A compiled xDiT
takes a minute or more for each size and number of GPUs: choose with --engines, --gpus, --pixels and --modes (an engine
that has none of them runs eager), or raise --budget-seconds. scaling.py draws these results, beside those of
models_gpus.py or alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from direct.comfy_engines import KINDS, Kind

RANK = Path(__file__).resolve().parent / "direct" / "rank.py"
ENGINES = (*KINDS, "xdit")
MODES = ("eager", "compiled", "compiled, no graphs")
LINE = "{:<8} {:>4}  {:<20} {:>9}  {:>10} {:>10}  {:>9} {:>10}"
KEYS = ("pixels", "engine", "gpus", "mode")
GRACE_SECONDS = 10


class Run:
    """What is measured, and what was: `rows` as the ranks wrote them, `failures` as engine → its last lines."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options = options
        self.folder = folder
        self.deadline = time.monotonic() + options.budget_seconds
        self.rows: list[dict] = []
        self.failures: dict[str, str] = {}
        self.took: dict[tuple[str, int], float] = {}

    def all(self) -> None:
        for turn in range(self.options.repeats):
            plan = list(self.plan())
            for engine, size in plan if turn % 2 == 0 else plan[::-1]:
                expected = self.took.get((engine, size), 0.0)
                if time.monotonic() + expected > self.deadline:
                    print(f"skipped, no time left: {engine} on {size}", flush=True)
                elif f"{engine} {size}" not in self.failures:
                    self.measure(engine, size)

    def plan(self) -> Iterator[tuple[str, int]]:
        gpus = 2 if self.options.tiny else torch.cuda.device_count()
        for engine, asked in self.options.engines:
            sizes = [size for size in asked or self.options.gpus if size <= gpus]
            if KINDS.get(engine, Kind(False)).stock:
                sizes = [1]
            yield from ((engine, size) for size in sizes if size > 1 or "ring" not in engine)

    def measure(self, engine: str, size: int) -> None:
        began, out, log = time.monotonic(), self.folder / "rows", self.folder / "log"
        out.unlink(missing_ok=True)
        options = self.options
        command = [sys.executable, str(RANK), "--engine", engine, "--size", str(size), "--comfyui", options.comfyui]
        command += ["--calls", str(options.calls), "--rows", str(options.rows), "--out", str(out)]
        command += ["--outputs", str(self.folder), "--store", str(self.folder / f"store-{time.monotonic_ns()}")]
        command += ["--pixels", *map(str, options.pixels), "--modes", *options.modes, *(["--tiny"] * options.tiny)]
        command += ["--profile"] * options.profile
        with open(log, "w") as file:
            ranks = [
                subprocess.Popen([*command, "--rank", str(rank)], stdout=file, stderr=subprocess.STDOUT)
                for rank in range(size)
            ]
            left = self.deadline - time.monotonic()
            codes = _wait(ranks, max(GRACE_SECONDS, min(left, options.engine_seconds)))
        rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        for row in [row for row in rows if "error" in row]:
            self.failures[f"{engine} {size}, {row['mode']}, {row['pixels']}²"] = row["error"]
        rows = [row for row in rows if "error" not in row]
        self.rows += rows
        self.took[engine, size] = time.monotonic() - began
        if any(codes):
            lines = log.read_text(errors="replace").splitlines()[-12:]
            self.failures[f"{engine} {size}"] = "\n".join([f"exit codes {codes}", *lines])
        for row in rows:
            print(
                f"{engine} on {size}, {row['mode']}, {row['pixels']}²: {statistics.median(row['ms']):.2f} ms",
                flush=True,
            )
            if "profile" in row:
                print("  ms of", {kind: round(ms, 2) for kind, ms in row["profile"].items()}, flush=True)
                for kernel in row["longest"]:
                    print("  {ms:7.3f} ms, {count:5.1f} × {name}".format_map(kernel), flush=True)
        print(f"{engine} on {size} took {self.took[engine, size]:.0f} s, exit codes {codes}", flush=True)
        self.write()

    def medians(self) -> list[dict]:
        """One row for each size, engine, number of GPUs and mode: `ms`, and times faster than stock and than xDiT's
        best on as many GPUs. The medians are over all rows of all repeats; `off_exact`: over the seeds.
        """
        groups: dict[tuple, list[float]] = {}
        exact = {tuple(row[name] for name in KEYS): row.get("off_exact") for row in self.rows}
        off: dict[tuple, float | None] = {}
        for row in self.rows:
            key = tuple(row[name] for name in KEYS)
            groups.setdefault(key, []).extend(row["ms"])
            off[key] = off.get(key) or row["off_one_gpu"]
        found = []
        middle = {key: statistics.median(times) for key, times in groups.items()}
        for key, ms in sorted(middle.items()):
            pixels, engine, gpus, mode = key
            stock = middle.get((pixels, "stock", 1, "eager"))
            xdit = [value for (p, e, g, _), value in middle.items() if (p, e, g) == (pixels, "xdit", gpus)]
            row = dict(zip(KEYS, key, strict=True)) | {"ms": ms, "off_one_gpu": off[key]}
            row["off_exact"] = statistics.median(exact[key]) if exact[key] else None
            row["over_stock"] = stock / ms if stock else None
            row["over_xdit"] = min(xdit) / ms if xdit and engine != "xdit" else None
            found.append(row)
        return found

    def write(self) -> None:
        versions = {
            "torch": torch.__version__,
            **{name: _version(name) for name in ("xfuser", "diffusers", "yunchang")},
        }
        about = {
            "command": " ".join(["python", *sys.argv]),
            "gpu": "none" if self.options.tiny else torch.cuda.get_device_name(),
            "versions": versions,
        }
        content = {"about": about, "medians": self.medians(), "rows": self.rows, "failures": self.failures}
        self.options.out.write_text(json.dumps(content, indent=1) + "\n")

    def table(self) -> str:
        lines = [LINE.format("engine", "GPUs", "mode", "ms", "over stock", "over xDiT", "off 1 GPU", "off exact")]
        before = None
        for row in self.medians():
            if row["pixels"] != before:
                before = row["pixels"]
                lines += ["", f"{before}²"]
            numbers = [f"{row[name]:.2f} ×" if row[name] else "-" for name in ("over_stock", "over_xdit")]
            off = [
                "-" if row[name] is None else f"{row[name]:.{digits}e}"
                for name, digits in (("off_one_gpu", 1), ("off_exact", 3))
            ]
            lines.append(LINE.format(row["engine"], row["gpus"], row["mode"], f"{row['ms']:.2f}", *numbers, *off))
        return "\n".join([*lines, *(f"FAILED {name}: {text}" for name, text in self.failures.items())])


def _wait(ranks: list[subprocess.Popen], seconds: float) -> list[int]:
    """Exit codes; when one rank fails, or time is over, the others are ended."""
    deadline = time.monotonic() + seconds
    while any(rank.poll() is None for rank in ranks):
        if time.monotonic() > deadline or any(rank.poll() for rank in ranks):
            time.sleep(1)  # for the others to say what they have to
            for rank in ranks:
                rank.kill()
        time.sleep(0.1)
    return [rank.wait() for rank in ranks]


def _version(package: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _engine(text: str) -> tuple[str, list[int]]:
    name, _, gpus = text.partition(":")
    if name not in ENGINES:
        raise argparse.ArgumentTypeError(f"no engine {name!r}")
    return name, [int(number) for number in gpus.split(",") if number]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True, help="a ComfyUI tree")
    parser.add_argument("--out", type=Path, required=True, help="the results as JSON")
    parser.add_argument(
        "--engines",
        nargs="+",
        type=_engine,
        default=[(name, []) for name in ("stock", "pack", "pack-ring", "xdit")],
        help=f"of {', '.join(ENGINES)}; name:2,4 on other numbers of GPUs than --gpus",
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 2, 4, 8], help="numbers of GPUs")
    parser.add_argument("--pixels", nargs="+", type=int, help="sides of the images; default 1024 2048")
    parser.add_argument("--repeats", type=int, default=2, help="passes over all engines, every second one backwards")
    parser.add_argument("--calls", type=int, default=5, help="calls in a row")
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--budget-seconds", type=float, default=540, help="nothing goes on after this")
    parser.add_argument("--engine-seconds", type=float, default=400, help="nor one engine on one number of GPUs")
    parser.add_argument("--profile", action="store_true", help="also where the time of a call goes, by kernels")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    options.pixels = options.pixels or ([128, 256] if options.tiny else [1024, 2048])
    return options


def main() -> int:
    options = arguments()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(options, Path(folder))
        run.all()
    run.write()
    print(f"\n{run.table()}\n\n{options.out}", flush=True)
    return 1 if run.failures or not run.rows else 0


if __name__ == "__main__":
    sys.exit(main())
