"""The second half of flux_gpus.py, run by the host's python: model files, the two servers, the cases in order."""

import argparse
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from comfy_host import Host
from comfy_host.instance import InstanceError
from support.comfy import import_comfy
from support.comfy_client import PromptFailed, PromptRefused
from support.images import write_random_image
from support.parity import relative_error

from .. import machine
from ..engines import Engine, engines
from ..server import Measured, Server
from ..weights import working_directory
from .cases import FULL_SCALE, HINT, TINY_SCALE, VARIANTS, Case, Scale, error_cases, speed_cases, workflow
from .model_files import ModelFiles, make_model_files
from .results import Results

ERROR_SEED = 7
WARM_UP_STEPS = SKIPPED_STEPS = 2
NEEDED_BYTES = {True: 1 << 30, False: 27 << 30}
PROMPT_ERRORS = (PromptFailed, PromptRefused)
SERVER_ERRORS = (InstanceError, TimeoutError, ConnectionError)


class Run:
    """One whole run. Cases start only while there is time; what was measured is in `results` from then on."""

    def __init__(self, options: argparse.Namespace, results: Results):
        self.results = results
        self.scale: Scale = TINY_SCALE if options.tiny else FULL_SCALE
        self.gpus = 0 if options.tiny else torch.cuda.device_count()
        self.host = Host(options.tree, Path(sys.executable))
        self.repeats = options.repeats
        self.flags = [*options.server_flag, *(["--cpu"] if not self.gpus else [])]
        self.logs = options.out.absolute().with_suffix("")
        self.deadline = results.began + options.budget_seconds
        self.fp32: dict[str, torch.Tensor] = {}
        self.stock: dict[str, torch.Tensor] = {}
        self.seed = 1000
        self.files: ModelFiles | None = None

    def all(self, work: Path) -> None:
        self.results.say(f"model files in {work}")
        self.files = make_model_files(work / "models", self.scale.shape, "cuda" if self.gpus else "cpu")
        (work / "input").mkdir(exist_ok=True)
        write_random_image(work / "input" / HINT, self.scale.error_size, self.scale.error_size)
        self.results.say(f"{self.files.bytes / 1e9:.1f} GB written")
        self.serve(work, "fp32", ["--force-fp32"], self.reference)
        self.serve(work, "bf16", [], self.measure)

    def serve(self, work: Path, name: str, flags: list[str], use) -> None:
        """Run `use` with a server of its own. A server that cannot go on ends this part, not the run."""
        log = self.logs.with_name(f"{self.logs.name}-{name}")
        try:
            with Server(self.host, work, [*self.flags, *flags], log) as server:
                self.results.say(f"{name} server answers")
                use(server)
        except SERVER_ERRORS as error:
            self.results.failure(f"{name} server", error)

    def reference(self, server: Server) -> None:
        """What stock ComfyUI samples in fp32; conditioning on the GPU must give what it gives on the CPU."""
        for variant in VARIANTS[:-1]:
            case = Case(Engine("stock fp32"), self.scale.error_size, self.scale.error_steps, variant)
            latent = self.attempt(case, lambda case=case: self.run(server, case, ERROR_SEED).latent)
            if latent is not None:
                self.fp32[variant] = latent
                self.results.say(f"{case}: norm {latent.norm():.3f}, standard deviation {latent.std():.3f}")
        if "plain" in self.fp32:
            self.fp32[VARIANTS[-1]] = self.fp32["plain"]

    def measure(self, server: Server) -> None:
        """Every engine in turn, then in the opposite order: what drifts meets all alike."""
        order = engines(self.gpus)
        for repeat in range(self.repeats):
            for engine in order if repeat % 2 == 0 else reversed(order):
                server.client.free()
                self.speeds(server, engine, repeat)
                self.results.gpu_memory.append({"engine": engine.name, "mib": machine.gpu_memory_mib()})
                if repeat == 0:
                    self.errors(server, engine)

    def speeds(self, server: Server, engine: Engine, repeat: int) -> None:
        warm = set()
        for case in speed_cases(engine, self.scale):
            if (case.size, case.attention) not in warm:
                warm.add((case.size, case.attention))
                warming = replace(case, steps=WARM_UP_STEPS)
                self.attempt(warming, lambda warming=warming: self.run(server, warming, self.new_seed()))
            speed = self.attempt(case, lambda case=case: self.run(server, case, self.new_seed()).speed)
            if speed is not None:
                self.results.speed(case, repeat, speed)

    def errors(self, server: Server, engine: Engine) -> None:
        for case in error_cases(engine, self.scale):
            latent = self.attempt(case, lambda case=case: self.run(server, case, ERROR_SEED).latent)
            if latent is None:
                continue
            if engine.devices is None:
                self.stock[case.variant] = latent
            pairs = [(latent, kept.get(case.variant)) for kept in (self.fp32, self.stock)]
            self.results.error(case, *(None if other is None else relative_error(a, other) for a, other in pairs))

    def run(self, server: Server, case: Case, seed: int) -> Measured:
        return server.run(workflow(case, self.files, self.scale, seed), SKIPPED_STEPS)

    def attempt(self, case: Case, work):
        """What `work` gives; None when there is no time left for it or its prompt failed."""
        if time.monotonic() > self.deadline:
            self.results.skip(case)
            return None
        try:
            return work()
        except PROMPT_ERRORS as error:
            self.results.failure(case, error)
            return None

    def new_seed(self) -> int:
        self.seed += 1
        return self.seed


def main() -> int:
    options = arguments()
    results = Results(out=options.out, about=machine.about(options.tree, "benchmarks/flux_gpus.py"))
    results.write()
    import_comfy(options.tree)
    run = Run(options, results)
    made = None if options.work else working_directory(NEEDED_BYTES[options.tiny])
    work = options.work or made
    for folder in ("diffusion_models", "loras", "controlnet"):
        (work / "models" / folder).mkdir(parents=True, exist_ok=True)
    try:
        run.all(work)
    finally:
        if made:
            shutil.rmtree(made, ignore_errors=True)
        results.write()
        print(f"\n{results.table()}\n\n{results.out}", flush=True)
    return 1 if results.failures else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/flux_gpus.py", description="Flux in ComfyUI: stock and xDiT.")
    parser.add_argument("--tree", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, required=True, help="the results as JSON; server logs go beside it")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on CPU ranks: tries the harness itself")
    parser.add_argument("--repeats", type=int, default=2, help="passes over all engines, every second one backwards")
    parser.add_argument("--budget-seconds", type=float, default=450, help="no case starts after this")
    parser.add_argument("--work", type=Path, help="keep model files here; without it a temporary directory is used")
    parser.add_argument("--server-flag", action="append", default=[], help="a further flag for ComfyUI")
    return parser.parse_args()
