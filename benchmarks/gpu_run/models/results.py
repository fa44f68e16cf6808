"""What was measured, and a table for people."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field

from ..engines import Engine
from ..report import Report
from ..server import Measured
from .job import Case, Job
from .limits import TFLOPS, limit_ms, step_flops

LINE = "{:<24} {:<24} {:>12} {:>9} {:>14} {:>9} {:>13}  {}"
KEYS = ("model", "case", "engine")


@dataclass(kw_only=True)
class Results(Report):
    """`speeds` and `differences` are lists of plain dicts, in the order they were taken. `files`: bytes and seconds."""

    files: list[dict] = field(default_factory=list)
    speeds: list[dict] = field(default_factory=list)
    differences: list[dict] = field(default_factory=list)
    gpu_memory: list[dict] = field(default_factory=list)
    limits: list[dict] = field(default_factory=list)

    def speed(self, job: Job, case: Case, engine: Engine, repeat: int, measured: Measured, divided: str) -> None:
        """`divided`: how the pack said it divides the work."""
        speed = measured.speed
        self.speeds.append(
            {**_named(job, case, engine), "ranks": engine.ranks, "repeat": repeat, "divided": divided, **asdict(speed)}
            | {"ms_per_step": speed.ms_per_step, "sampler_ms_per_step": speed.sampler_ms_per_step}
        )
        self.say(
            f"{job.title}, {case.name}, {engine.name}: {speed.ms_per_step:.1f} ms a step,"
            f" {speed.sampler_ms_per_step:.1f} with all around it, {speed.seconds:.2f} s; {divided}"
        )
        self.write()

    def difference(self, job: Job, case: Case, engine: Engine, steps: int, relative: float) -> None:
        """‖latent - stock's‖ / ‖stock's‖ after `steps` steps."""
        self.differences.append({**_named(job, case, engine), "steps": steps, "against_stock": relative})
        self.say(f"{job.title}, {case.name}, {engine.name}: {relative:.2e} from stock after {steps} step(s)")
        self.write()

    def limit(self, job: Job, case: Case) -> None:
        """Count the operations of a step, for the arithmetic limit."""
        flops = step_flops(job, case)
        row = {"model": job.title, "case": case.name, "flops": flops, "tflops": TFLOPS}
        self.limits.append({**row, "ms_one_gpu": limit_ms(flops, 1)})
        self.say(
            f"{job.title}, {case.name}: {flops / 1e12:.1f} TFLOP a step, {limit_ms(flops, 1):.1f} ms at {TFLOPS}/s"
        )
        self.write()

    def table(self) -> str:
        lines = [
            self.machine(),
            "",
            "× and ×all: times faster than stock, by the steps alone and by the whole sampler node",
            LINE.format("", "", "ms per step", "×", "node ms/step", "×all", "off stock", "divided"),
        ]
        for (model, case, engine), row in self.medians().items():
            stock = self.medians().get((model, case, "stock"))
            faster = [f"{stock[name] / row[name]:.2f}" if stock else "-" for name in ("step", "node")]
            numbers = f"{row['step']:.1f}", faster[0], f"{row['node']:.1f}", faster[1]
            lines.append(LINE.format(f"{model} {case}", engine, *numbers, row["off"], row["divided"]))
        return "\n".join([*lines, *self._limits(), *self.ending()])

    def _limits(self) -> list[str]:
        """How far the fastest engine on as many devices is from the arithmetic limit."""
        lines = ["", "Arithmetic limit"] if self.limits else []
        for limit in self.limits:
            times: dict[tuple[int, str], list[float]] = {}
            for row in self.speeds:
                if (row["model"], row["case"]) == (limit["model"], limit["case"]):
                    times.setdefault((row["ranks"], row["engine"]), []).append(row["ms_per_step"])
            fastest: dict[int, float] = {}
            for (ranks, _), ms in times.items():
                fastest[ranks] = min(statistics.median(ms), fastest.get(ranks, float("inf")))
            for ranks, ms in sorted(fastest.items()):
                least = limit["ms_one_gpu"] / ranks
                what = f"{ranks} device(s), {limit['tflops']} TFLOP/s each"
                name = f"{limit['model']} {limit['case']}"
                lines.append(LINE.format(name, what, f"{least:.1f}", "", "", "", "", f"reached: {least / ms:.0%}"))
        return lines

    def medians(self) -> dict[tuple, dict]:
        """(model, case, engine) → milliseconds per step (steps alone, whole node), difference, division."""
        off = {tuple(row[key] for key in KEYS): f"{row['against_stock']:.2e}" for row in self.differences}
        groups: dict[tuple, list[dict]] = {}
        for row in self.speeds:
            groups.setdefault(tuple(row[key] for key in KEYS), []).append(row)
        order = {key[:2]: place for place, key in reversed(list(enumerate(groups)))}
        return {
            key: {
                "step": statistics.median(row["ms_per_step"] for row in rows),
                "node": statistics.median(row["sampler_ms_per_step"] for row in rows),
                "off": off.get(key, "-"),
                "divided": rows[-1]["divided"],
            }
            for key, rows in sorted(groups.items(), key=lambda group: order[group[0][:2]])
        }


def _named(job: Job, case: Case, engine: Engine) -> dict:
    return {"model": job.title, "case": case.name, "engine": engine.name}
