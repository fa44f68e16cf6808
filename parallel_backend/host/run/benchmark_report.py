"""What a benchmark found, as text for people."""

from __future__ import annotations

from ...contract.config import Degrees
from .benchmark import Measured, Trial

LINE = "{:<28} {:>12} {:>16}   {}"
REMEMBERED = "the best: strategy auto takes it from now on"
APPROXIMATE = "approximates, so auto leaves it to you: see Parallel Config"


def as_text(measured: Measured) -> str:
    """One line for each strategy, the fastest first, then those that cannot be had, each with its reason."""
    work, config = measured.work, measured.config
    timed = sorted((trial for trial in measured.trials if not trial.fault), key=lambda trial: trial.seconds)
    failed = [trial for trial in measured.trials if trial.fault]
    one = next((trial.seconds for trial in timed if trial.degrees == Degrees()), None)
    lines = [
        f"xDiT Benchmark: {work.architecture} on {measured.devices}",
        f"latent {' × '.join(map(str, work.latent_shape))}, conditions {work.conditions}, attention {config.attention},"
        f" {'compiled' if config.compile == 'on' else 'not compiled'}",
        "",
    ]
    if timed:
        lines.append(LINE.format("strategy", "ms per step", "over one device", "").rstrip())
    for trial in timed:
        over = f"{one / trial.seconds:.2f} ×" if one is not None else "-"
        row = LINE.format(str(trial.degrees), f"{trial.seconds * 1e3:.1f}", over, _remark(trial, measured))
        lines.append(row.rstrip())
    if failed:
        lines += ["", "Cannot be had:", *map(_reason, failed)]
    if not timed:
        lines += ["", "Nothing could be measured, so nothing is remembered."]
    return "\n".join(lines)


def _remark(trial: Trial, measured: Measured) -> str:
    if trial is measured.best:
        return REMEMBERED
    if not trial.exact:
        return APPROXIMATE
    return "what auto takes without a measurement" if trial.degrees == measured.rule else ""


def _reason(trial: Trial) -> str:
    named = trial.fault.startswith(f"{trial.degrees}:")
    return trial.fault if named else f"{trial.degrees}: {trial.fault}"
