"""What was measured, and a table for people."""

import statistics
from dataclasses import asdict, dataclass, field

from ..report import Report
from ..server import Speed
from .cases import Case

LINE = "{:<18} {:>6} {:>5}  {:<12} {:>10} {:>12} {:>12} {:>8}"
ERROR_LINE = "{:<18} {:<17} {:<9} {:>14} {:>14}"


@dataclass(kw_only=True)
class Results(Report):
    """Speeds and errors are lists of plain dicts, in the order they were taken."""

    speeds: list[dict] = field(default_factory=list)
    errors: list[dict] = field(default_factory=list)
    gpu_memory: list[dict] = field(default_factory=list)

    def speed(self, case: Case, repeat: int, speed: Speed) -> None:
        self.speeds.append(
            {**_named(case), "repeat": repeat, **asdict(speed), "ms_per_step": speed.ms_per_step}
            | {"overhead_ms": speed.overhead_ms}
        )
        self.say(f"{case}: {speed.ms_per_step:.1f} ms a step, {speed.seconds:.2f} s, {speed.overhead_ms:.0f} ms around")
        self.write()

    def error(self, case: Case, against_fp32: float | None, against_stock: float | None) -> None:
        """Relative errors ‖found - expected‖ / ‖expected‖; None where the other latent is missing."""
        self.errors.append({**_named(case), "against_fp32": against_fp32, "against_stock": against_stock})
        self.say(f"{case}: error {_number(against_fp32)} against fp32, {_number(against_stock)} against stock")
        self.write()

    def table(self) -> str:
        lines = [
            self.machine(),
            "",
            "Speed (medians of all repeats; around = seconds - steps × ms per step)",
            LINE.format("", "size", "steps", "attention", "preview", "ms per step", "seconds", "around"),
        ]
        for (engine, size, steps, attention, preview), rows in self._grouped().items():
            middle = [
                statistics.median(row[name] for row in rows) for name in ("ms_per_step", "seconds", "overhead_ms")
            ]
            values = f"{middle[0]:.1f}", f"{middle[1]:.2f}", f"{middle[2]:.0f} ms"
            lines.append(LINE.format(engine, size, steps, attention, preview, *values))
        lines += [
            "",
            "Relative error of the latent",
            ERROR_LINE.format("", "", "attention", "against fp32", "against stock"),
        ]
        for row in self.errors:
            numbers = _number(row["against_fp32"]), _number(row["against_stock"])
            lines.append(ERROR_LINE.format(row["engine"], row["variant"], row["attention"], *numbers))
        return "\n".join(lines + self.ending())

    def _grouped(self) -> dict[tuple, list[dict]]:
        groups: dict[tuple, list[dict]] = {}
        for row in self.speeds:
            key = tuple(row[name] for name in ("engine", "size", "steps", "attention", "preview"))
            groups.setdefault(key, []).append(row)
        return dict(sorted(groups.items(), key=lambda group: (group[0][1], group[0][4], group[0][0], group[0][3])))


def _named(case: Case) -> dict:
    attention = case.attention if case.engine.devices else "comfyui"
    return {**asdict(case), "engine": case.engine.name, "attention": attention}


def _number(error: float | None) -> str:
    return "-" if error is None else f"{error:.2e}"
