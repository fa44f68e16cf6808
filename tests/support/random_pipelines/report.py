"""docs/pipefusion.json, and docs/pipefusion.md made from it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from comfy_host import PACK_ROOT

from ..compare import TOLERANCE
from .deviation import HEIGHT, IMAGES, PATCHES, SAMPLERS, STAGES, STEPS, TEXT_TOKENS, WARMUPS, WIDTH
from .plan import KIND_OF, Configuration, configuration
from .run import CANCELLED_WITHIN_S, END_WITHIN_S, FAR, GOOD_ENDS, Outcome

RECORD = PACK_ROOT / "docs" / "pipefusion.json"
TABLE = PACK_ROOT / "docs" / "pipefusion.md"
COUNT = 200
NOT_YET = "…"


@dataclass
class Record:
    """`outcomes`: by number of the configuration; `deviations`: relative errors by "sampler, steps, warm-up"; each with
    the commit that it ran on.
    """

    outcomes: dict[int, tuple[Outcome, str]] = field(default_factory=dict)
    deviations: dict[str, tuple[float, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Record:
        """What `path` holds; empty if there is no such file."""
        if not path.is_file():
            return cls()
        kept = json.loads(path.read_text())
        outcomes = {one["number"]: (Outcome(**one), commit) for one, commit in kept["outcomes"]}
        return cls(outcomes, {place: tuple(found) for place, found in kept["deviations"].items()})

    def write(self, path: Path) -> None:
        outcomes = [(asdict(outcome), commit) for _, (outcome, commit) in sorted(self.outcomes.items())]
        text = json.dumps({"outcomes": outcomes, "deviations": self.deviations}, indent=1)
        partial = path.with_suffix(".partial")
        partial.write_text(text + "\n")
        partial.rename(path)

    @property
    def bad(self) -> list[str]:
        return [f"configuration {one.number}: {one.end}" for one, _ in self.outcomes.values() if not one.good]


def place_of(sampler: str, steps: int, warmup: str) -> str:
    return f"{sampler}, {steps}, {warmup}"


def render(record: Record, wanted: int) -> str:
    """docs/pipefusion.md."""
    import comfyui_version

    pairs = [(configuration(number), outcome) for number, (outcome, _) in sorted(record.outcomes.items())]
    commits = sorted({commit for _, commit in (*record.outcomes.values(), *record.deviations.values())})
    outcomes = [outcome for _, outcome in pairs]
    ends = Counter(outcome.end if outcome.good else "bad" for outcome in outcomes)
    approximate = sorted(outcome.deviation for outcome in outcomes if outcome.end == "approximate")
    lines = [
        "# PipeFusion",
        "",
        f"Made by `python3 scripts/pipelines.py --count {wanted}` with ComfyUI {comfyui_version.__version__}, on commit"
        f" {', '.join(commits) or '(none yet)'}; the data is [pipefusion.json](pipefusion.json). Tiny models with"
        " random weights, fp32, ranks on a CPU, prompts through the real server.",
        "",
        "## How far from exact sampling",
        "",
        f"Flux, {STAGES} stages, {PATCHES} patches, {IMAGES} images of {WIDTH} × {HEIGHT}, a prompt of {TEXT_TOKENS}"
        " tokens, which is whole in the first patch: ‖PipeFusion − stock ComfyUI‖ / ‖stock ComfyUI‖ of the latents."
        " **The weights are random**: a trained model gives other figures. More"
        " steps come closer; a warm-up of half the steps changes little beside one of 1. With all steps as warm-up it"
        " is exact.",
        "",
        *_table(
            ["sampler", "steps", *(f"warm-up {warmup}" for warmup in WARMUPS)],
            [
                [sampler, str(steps), *(_deviation(record, sampler, steps, warmup) for warmup in WARMUPS)]
                for sampler in SAMPLERS
                for steps in STEPS
            ],
        ),
        "",
        "## Configurations drawn by chance",
        "",
        "Models, degrees, patches, warm-up, steps, samplers, schedulers, sizes, batches, lengths of text, LoRAs and"
        " cancels, each drawn by its number (`tests/support/random_pipelines/plan.py`). Every prompt must end within"
        f" {END_WITHIN_S} s, a cancelled one within {CANCELLED_WITHIN_S} s of the cancel. Where all steps are warm-up,"
        " the model is evaluated once only, or there is one patch, the latent must be stock ComfyUI's (relative error"
        f" at most {TOLERANCE:.0e}); elsewhere finite and within a relative error of {FAR:g}. After a refusal"
        " and a cancel an exact prompt must come out right, and no rank may have been replaced.",
        "",
        "| | |",
        "| --- | --- |",
        f"| Configurations run | {len(outcomes)} of {wanted} |",
        f"| Exact, as they must be | {ends['exact']} |",
        f"| Approximate | {ends['approximate']} |",
        f"| Their deviation from stock ComfyUI, median and largest | {_median_and_largest(approximate)} |",
        f"| Cancelled | {ends['cancelled']} |",
        f"| Longest wait for a cancel | {max((outcome.to_cancel for outcome in outcomes), default=0):.1f} s |",
        f"| Refused, with the reason that was expected | {ends['refused']} |",
        f"| An exact prompt right after a cancel or a refusal | {sum(outcome.good_after for outcome in outcomes)} |",
        f"| Run twice, the same bits | {sum(outcome.repeated for outcome in outcomes)} |",
        f"| Slowest prompt | {max((outcome.seconds for outcome in outcomes), default=0):.1f} s |",
        f"| Anything else | {ends['bad']} |",
        "",
        *_counts("degrees", pairs, _degrees),
        "",
        *_counts("model", pairs, lambda one: one.family),
        "",
        *_counts("samplers", pairs, lambda one: KIND_OF[one.sampler]),
        "",
    ]
    lines += [f"- {bad}" for bad in record.bad]
    return "\n".join(lines).rstrip() + "\n"


def _deviation(record: Record, *place) -> str:
    found = record.deviations.get(place_of(*place))
    return NOT_YET if found is None else f"{found[0]:.4f}"


def _median_and_largest(found: list[float]) -> str:
    return f"{found[len(found) // 2]:.3f}, {found[-1]:.3f}" if found else NOT_YET


def _degrees(one: Configuration) -> str:
    return " × ".join(f"{name} {degree}" for name, degree in one.degrees.items())


def _counts(
    head: str, pairs: list[tuple[Configuration, Outcome]], name: Callable[[Configuration], str]
) -> Iterable[str]:
    found: dict[str, Counter] = {}
    for one, outcome in pairs:
        found.setdefault(name(one), Counter())[outcome.end if outcome.good else "bad"] += 1
    ends = [*GOOD_ENDS, "bad"]
    return _table([head, *ends], [[key, *(str(counts[end]) for end in ends)] for key, counts in sorted(found.items())])


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
