"""The record of a soak, and docs/reliability.md made from it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .plan import Step
from .resources import Resources, growth, summary
from .run import ERROR_WITHIN_S, Outcome

FAULTS = Path(__file__).parent / "faults.md"
TITLES = {
    "host_mib": "ComfyUI's own memory, MiB",
    "host_descriptors": "ComfyUI's open files",
    "rank_mib": "Largest rank's own memory, MiB",
    "rank_descriptors": "Most open files of a rank",
    "shared_mib": "Shared memory of all, MiB",
    "processes": "Processes",
}


@dataclass
class Record:
    """What came of each prompt; every part had a server of its own."""

    prompts: int
    kills: int
    seed: int
    parts: list[list[Outcome]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Record:
        kept = json.loads(path.read_text())
        parts = [[_outcome(one) for one in part] for part in kept.pop("parts")]
        return cls(**kept, parts=parts)

    @property
    def plan(self) -> str:
        return f"--prompts {self.prompts} --kills {self.kills} --seed {self.seed}"

    @property
    def done(self) -> int:
        return sum(len(part) for part in self.parts)

    def outcomes(self) -> list[Outcome]:
        return [outcome for part in self.parts for outcome in part]


def _outcome(kept: dict) -> Outcome:
    resources = kept.pop("resources")
    return Outcome(**kept, resources=Resources(**resources) if resources else None)


def render(record: Record, plan: list[Step]) -> str:
    """docs/reliability.md."""
    outcomes = record.outcomes()
    steps = plan[: len(outcomes)]
    ends = Counter(outcome.end if outcome.good else "bad" for outcome in outcomes)
    switches = sum(one.family != other.family for one, other in zip(steps, steps[1:], strict=False))
    slowest = max((outcome.after_kill for outcome in outcomes), default=0.0)
    lines = [
        "# Reliability",
        "",
        "A real ComfyUI on the CPU, two ranks, tiny Flux, SD3 and SDXL models in turn. Prompts are cancelled and ranks"
        " killed (SIGKILL) at random moments from 0 to 0.8 s after queueing: while a model loads, between and inside"
        " steps, and after the end. Every latent that comes out is held against the one that stock ComfyUI gives on one"
        " device (relative error at most 1e-5, fp32).",
        "",
        f"Made by `python3 scripts/soak.py {record.plan}`; the data is [reliability.json](reliability.json).",
        "",
        "| | |",
        "| --- | --- |",
        f"| Prompts | {len(outcomes)} of {record.prompts} |",
        f"| Parts, a server each | {len(record.parts)} |",
        f"| Switches of models | {switches} |",
        f"| Cancels sent | {sum(step.action == 'cancel' for step in steps)} |",
        f"| Ranks killed | {sum(step.action == 'kill' for step in steps)} |",
        f"| Ended with the right latent | {ends['right']} |",
        f"| Ended cancelled | {ends['cancelled']} |",
        f"| Ended with an error that names the killed rank | {ends['error']} |",
        f"| Anything else | {ends['bad']} |",
        f"| Slowest error after a kill (limit {ERROR_WITHIN_S} s) | {slowest:.1f} s |",
        "",
        "What is held of the machine, as the median over the first and over the last third of each part's prompts:",
        "",
        "| | " + " | ".join(f"part {number}" for number in range(1, len(record.parts) + 1)) + " |",
        "| --- |" + " --- |" * len(record.parts),
    ]
    seen = [[outcome.resources for outcome in part if outcome.resources] for part in record.parts]
    for name, title in TITLES.items():
        cells = [" → ".join(f"{value:g}" for value in summary(part)[name]) if part else "–" for part in seen]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    grown = [line for part in seen if part for line in growth(part)]
    lines += ["", f"Grown: {'; '.join(grown) or 'nothing'}.", ""]
    return "\n".join(lines) + "\n" + FAULTS.read_text()
