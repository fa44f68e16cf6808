"""docs/graphs.json: what came of each graph."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from comfy_host import PACK_ROOT

from .plan import LOADER, STOCK
from .run import BAD, GOOD, REFUSED, Outcome

RECORD = PACK_ROOT / "docs" / "graphs.json"
COUNT = 500
KINDS = {LOADER: "xDiT Loader", STOCK: "Load Diffusion Model, given to an xDiT sampler"}


@dataclass
class Record:
    """Outcomes by number, each with the commit that it ran on."""

    outcomes: dict[int, tuple[Outcome, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Record:
        """What `path` holds; empty if there is no such file."""
        if not path.is_file():
            return cls()
        kept = json.loads(path.read_text())
        return cls({one["number"]: (Outcome(**one), commit) for one, commit in kept["outcomes"]})

    def write(self, path: Path) -> None:
        rows = [json.dumps([asdict(outcome), commit]) for _, (outcome, commit) in sorted(self.outcomes.items())]
        partial = path.with_suffix(".partial")
        partial.write_text('{"outcomes": [\n' + ",\n".join(rows) + "\n]}\n")
        partial.rename(path)

    @property
    def bad(self) -> list[str]:
        return [f"graph {one.number}: {one.verdict}: {one.text}" for one, _ in self.outcomes.values() if _bad(one)]

    @property
    def bad_numbers(self) -> set[int]:
        return {number for number, (outcome, _) in self.outcomes.items() if _bad(outcome)}


def _bad(outcome: Outcome) -> bool:
    return outcome.verdict not in GOOD


def summary(record: Record, wanted: int) -> list[str]:
    """The section on these graphs in docs/custom-nodes.md."""
    outcomes = [outcome for _, (outcome, _) in sorted(record.outcomes.items()) if outcome.number < wanted]
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    return [
        "| | |",
        "| --- | --- |",
        f"| Graphs run | {len(outcomes)} of {wanted} |",
        *(f"| {verdict} | {verdicts[verdict]} |" for verdict in (*GOOD, *BAD)),
        f"| A plain prompt right after it | {sum(outcome.plain_after for outcome in outcomes)} |",
        "",
        *_counts("model", outcomes, lambda one: one.family),
        "",
        *_counts("degrees", outcomes, _degrees),
        "",
        *_counts(
            "MODEL of", outcomes, lambda one: {"loader": "xDiT Loader", "stock": "Load Diffusion Model"}[one.kind]
        ),
        "",
        *_refusals(outcomes),
        "",
        *_wrong(outcomes),
    ]


def _degrees(one: Outcome) -> str:
    named = " × ".join(f"{name} {degree}" for name, degree in one.degrees.items())
    return (named or "auto") + "".join(f", {key} {value}" for key, value in one.config.items() if key != "warmup_steps")


def _wrong(outcomes: list[Outcome]) -> list[str]:
    """What is not as it must be, each graph by itself."""
    rows = [
        [str(one.number), one.family, _degrees(one), ", ".join(one.parts), f"{one.verdict}: {_reason(one.text)}"]
        for one in outcomes
        if _bad(one)
    ]
    return ["To be mended or run again:", "", *table(["graph", "model", "degrees", "nodes", ""], rows)] if rows else []


def _refusals(outcomes: list[Outcome]) -> list[str]:
    found = Counter(_reason(outcome.text) for outcome in outcomes if outcome.verdict == REFUSED)
    if not found:
        return []
    return table(["refused", "graphs"], [[text, str(count)] for text, count in found.most_common()])


def _reason(text: str) -> str:
    return text.partition("\n")[0].replace("|", "\\|")[:300]


def _counts(head: str, outcomes: list[Outcome], name: Callable[[Outcome], str]) -> Iterable[str]:
    found: dict[str, Counter] = {}
    for outcome in outcomes:
        found.setdefault(name(outcome), Counter())[outcome.verdict] += 1
    ends = [*GOOD, *BAD]
    return table([head, *ends], [[key, *(str(counts[end]) for end in ends)] for key, counts in sorted(found.items())])


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
