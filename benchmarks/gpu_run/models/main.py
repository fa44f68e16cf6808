"""The second half of models_gpus.py, run by the host's python: each model in turn, every engine for each."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from comfy_host import Host
from comfy_host.instance import InstanceError
from support.comfy import import_comfy
from support.comfy_client import PromptFailed, PromptRefused
from support.parity import relative_error

from .. import machine
from ..engines import Engine, engines
from ..server import Measured, Server
from ..weights import file_bytes, working_directory, write_random
from . import flux, qwen, sdxl, wan
from .job import Case, Job, workflow
from .results import Results

JOBS = {"sdxl": sdxl.job, "qwen": qwen.job, "flux": flux.job, "wan": wan.job}
STRATEGIES = ("auto", "ulysses", "ring", "cfg", "batch")
COMPARED_SEED = 7
START_SECONDS = 60  # of ComfyUI, of writing the file
SWITCH_SECONDS = 30  # from one engine to the next: start ranks, load weights
DIVIDED = re.compile(r"xDiT: (.+?) \(.*\) on (?:GPU|\d+ CPU)")
SERVER_ERRORS = (InstanceError, TimeoutError, ConnectionError)


class Run:
    """One whole run. A case starts only if it should end in time; what was measured is in `results` from then on."""

    def __init__(self, options: argparse.Namespace, results: Results, jobs: dict[str, Job], work: Path):
        self.results, self.jobs, self.work = results, jobs, work
        self.gpus = 0 if options.tiny else torch.cuda.device_count()
        self.engines = engines(self.gpus, tuple(options.strategies), options.compile)
        self.repeats, self.keep = options.repeats, options.work is not None
        self.deadline = results.began + options.budget_seconds
        self.stock: dict[tuple[str, str], torch.Tensor] = {}
        self.took: dict[tuple[str, str, str], float] = {}
        self.host = Host(options.tree, Path(sys.executable))
        self.flags = [*options.server_flag, *(["--cpu"] if not self.gpus else [])]
        self.log = options.out.absolute().with_suffix("")

    def all(self) -> None:
        for name, job in self.jobs.items():
            if time.monotonic() + START_SECONDS > self.deadline:
                self.results.skip(job.title)
                continue
            try:
                self.serve(name, job)
            except SERVER_ERRORS as error:
                self.results.failure(f"{job.title}, ComfyUI", error)
        self.limits()

    def limits(self) -> None:
        """Last, because counting keeps the CPU busy."""
        for job in self.jobs.values():
            for case in job.cases:
                self.results.limit(job, case)

    def serve(self, name: str, job: Job) -> None:
        """A ComfyUI for each model, so that each finds the GPUs empty. Its file is written while ComfyUI starts."""
        self.results.say(f"{job.title}: starts")
        server = Server(self.host, self.work, self.flags, self.log.with_name(f"{self.log.name}-{name}"))
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(self.write, name, job)
            with server:
                self.results.say("ComfyUI answers")
                file = writing.result()
                self.measure(server, job, file)
        if not self.keep:
            file.unlink()

    def write(self, name: str, job: Job) -> Path:
        shapes, began = job.shapes(), time.monotonic()
        path = self.work / "models" / "diffusion_models" / f"random-{name}.safetensors"
        if not path.exists():
            write_random(path, shapes, 0, "cuda" if self.gpus else "cpu", job.metadata)
        row = {"model": job.title, "bytes": file_bytes(shapes), "seconds": time.monotonic() - began}
        self.results.files.append(row)
        self.results.say(f"{job.title}: {row['bytes'] / 1e9:.1f} GB written in {row['seconds']:.1f} s")
        return path

    def measure(self, server: Server, job: Job, file: Path) -> None:
        """Every engine in turn, then in the opposite order: what drifts meets all alike."""
        for repeat in range(self.repeats):
            for engine in self.engines if repeat % 2 == 0 else reversed(self.engines):
                cases = [case for case in job.cases if self.in_time(job, case, engine)]
                if cases:
                    server.client.free()
                for case in cases:
                    if self.in_time(job, case, engine):
                        self.case(server, job, case, engine, file, repeat)
                if cases:
                    row = {"model": job.title, "engine": engine.name, "mib": machine.gpu_memory_mib()}
                    self.results.gpu_memory.append(row)

    def in_time(self, job: Job, case: Case, engine: Engine) -> bool:
        """Whether the case should end before the deadline: by what it took before, or by stock ComfyUI's time."""
        expected = case.step_seconds * (case.steps * case.prompts + case.warm_up) + SWITCH_SECONDS
        expected = self.took.get((job.title, case.name, engine.name), expected)
        if time.monotonic() + expected <= self.deadline:
            return True
        self.results.skip(f"{job.title}, {case.name}, {engine.name}, which takes about {expected:.0f} s")
        return False

    def case(self, server: Server, job: Job, case: Case, engine: Engine, file: Path, repeat: int) -> None:
        """Time one case; at its first time compare its latent with stock's."""
        began = time.monotonic()

        def run(steps: int, seed: int) -> Measured:
            return server.run(workflow(job, case, engine, file.name, steps, seed), skipped_steps=1)

        try:
            compared = run(1, COMPARED_SEED) if case.warm_up else None
            for prompt in range(case.prompts):
                measured = run(case.steps, COMPARED_SEED + repeat * case.prompts + prompt)
                self.results.speed(job, case, engine, repeat, measured, divided(measured.lines))
                compared = compared or measured
        except (PromptFailed, PromptRefused) as error:
            self.results.failure(f"{job.title}, {case.name}, {engine.name}", error)
            return
        self.took[job.title, case.name, engine.name] = time.monotonic() - began
        if repeat == 0:
            self.compare(job, case, engine, compared.latent, 1 if case.warm_up else case.steps)

    def compare(self, job: Job, case: Case, engine: Engine, latent: torch.Tensor, steps: int) -> None:
        if engine.devices is None:
            self.stock[job.title, case.name] = latent
        stock = self.stock.get((job.title, case.name))
        if stock is not None:
            self.results.difference(job, case, engine, steps, relative_error(latent, stock))


def divided(lines: list[str]) -> str:
    """How the pack said it divides the work; nothing for stock ComfyUI."""
    found = [match[1] for line in lines if (match := DIVIDED.search(line))]
    return found[-1] if found else ""


def main() -> int:
    options = arguments()
    results = Results(out=options.out, about=machine.about(options.tree, "benchmarks/models_gpus.py"))
    results.write()
    import_comfy(options.tree)
    jobs = {name: JOBS[name](options.tiny) for name in options.models}
    made = None if options.work else working_directory(max(file_bytes(job.shapes()) for job in jobs.values()))
    try:
        run = Run(options, results, jobs, options.work or made)
        run.limits() if options.only_limits else run.all()
    finally:
        if made:
            shutil.rmtree(made, ignore_errors=True)
        results.write()
        print(f"\n{results.table()}\n\n{results.out}", flush=True)
    return 1 if results.failures else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/models_gpus.py", description="Models in ComfyUI: stock and xDiT.")
    parser.add_argument("--tree", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, required=True, help="the results as JSON; server logs go beside it")
    parser.add_argument("--models", type=_names(JOBS), default=list(JOBS), help=f"in this order, of {','.join(JOBS)}")
    parser.add_argument("--tiny", action="store_true", help="tiny models on CPU ranks: tries the harness itself")
    parser.add_argument("--repeats", type=int, default=2, help="passes over all engines, every second one backwards")
    parser.add_argument("--strategies", type=_names(STRATEGIES), default=["auto"], help="several GPUs once for each")
    parser.add_argument("--compile", choices=("off", "on"), default="off", help="what the pack does with the blocks")
    parser.add_argument("--budget-seconds", type=float, default=450, help="no case starts that would end after this")
    parser.add_argument("--only-limits", action="store_true", help="count operations, measure nothing")
    parser.add_argument("--work", type=Path, help="keep model files here; without it a temporary directory is used")
    parser.add_argument("--server-flag", action="append", default=[], help="a further flag for ComfyUI")
    return parser.parse_args()


def _names(known):
    def names(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return text.split(",")

    return names
