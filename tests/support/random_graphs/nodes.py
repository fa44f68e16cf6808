"""ComfyUI's own patch nodes, each by itself on a model that it fits, with tokens and with conditions divided."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comfy_host import PACK_ROOT

from .catalogue import EXCEPTIONS, FOREIGN_PACK, drawn, families_for, listed, role_of
from .families import FAMILIES, Shape
from .notes import undivided
from .plan import LOADER, Plan
from .report import table
from .run import REFUSED, RIGHT, STOCK_FAILS, Outcome, Runner, ServerLost

RECORD = PACK_ROOT / "docs" / "patch_nodes.json"
WAYS: dict[str, dict[str, int]] = {"ulysses 2": {"ulysses": 2}, "cfg 2": {"cfg": 2}}
NOT_YET = "…"
NO_TOKENS = "–"


def patch_nodes(object_info: dict[str, Any]) -> list[str]:
    """ComfyUI's own that take a MODEL and give one."""
    return [
        name
        for name in drawn(object_info)
        if role_of(object_info[name]) == "model" and object_info[name]["python_module"] != FOREIGN_PACK
    ]


def family_for(name: str) -> str:
    return families_for(name)[0]


def ways_for(name: str) -> dict[str, dict[str, int]]:
    """UNets are not divided over their tokens."""
    return {way: degrees for way, degrees in WAYS.items() if "cfg" in degrees or FAMILIES[family_for(name)].tokens}


def plan_of(name: str, way: str) -> Plan:
    return plan_around(name, family_for(name), WAYS[way])


def plan_around(name: str, family: str, degrees: dict[str, int]) -> Plan:
    """A graph on two ranks that holds one node."""
    size = 64 if FAMILIES[family].size[0] < 64 else FAMILIES[family].size[0]
    return Plan(
        number=10000 + zlib.crc32(name.encode()) % 10000,
        family=family,
        kind=LOADER,
        ranks=2,
        degrees=degrees,
        config={},
        parts=(name,),
        samples=None,
        custom=False,
        steps=3,
        cfg=3.0,
        sampler="euler",
        scheduler="simple",
        shape=Shape(width=max(size, 96), height=size, length=3 if FAMILIES[family].video else 1, batch=1),
        tokens=(17, 9),
    )


Record = dict[str, dict[str, tuple[Outcome, str]]]
"""Node → way → outcome and the commit that it ran on."""


def read(path: Path = RECORD) -> Record:
    if not path.is_file():
        return {}
    kept = json.loads(path.read_text())
    return {
        name: {way: (Outcome(**outcome), commit) for way, (outcome, commit) in ways.items()}
        for name, ways in kept.items()
    }


def write(record: Record, path: Path = RECORD) -> None:
    rows = [
        f"{json.dumps(name)}: "
        + json.dumps({way: [asdict(outcome), commit] for way, (outcome, commit) in ways.items()})
        for name, ways in sorted(record.items())
    ]
    partial = path.with_suffix(".partial")
    partial.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    partial.rename(path)


def measure(runner: Runner, record: Record, commit: str, out_of_time: Callable[[], bool]) -> None:
    """Runs what is missing; each result is written at once. Raises ServerLost after one that does not end."""
    for name in patch_nodes(runner.object_info):
        for way in ways_for(name):
            if way in record.get(name, {}):
                continue
            if out_of_time():
                return
            outcome = runner.judged(plan_of(name, way))
            record.setdefault(name, {})[way] = (outcome, commit)
            write(record)
            print(f"{name}, {way}: {mark(outcome)} {outcome.text[:160]!r}", flush=True)
            if outcome.lost:
                raise ServerLost(name)


def mark(outcome: Outcome) -> str:
    if outcome.verdict == RIGHT:
        return "undivided" if undivided(outcome.notes) else "✓"
    return {REFUSED: "refused", STOCK_FAILS: "stock fails"}.get(outcome.verdict, f"✗ {outcome.verdict}")


def bad(record: Record) -> list[str]:
    return [
        f"{name}, {way}: {mark(outcome)}: {outcome.text}"
        for name, ways in record.items()
        for way, (outcome, _) in ways.items()
        if mark(outcome).startswith("✗")
    ]


def bad_ways(record: Record) -> set[tuple[str, str]]:
    """(node, way) of what is not as it must be."""
    return {
        (name, way)
        for name, ways in record.items()
        for way, (outcome, _) in ways.items()
        if mark(outcome).startswith("✗")
    }


def rendered(record: Record) -> list[str]:
    rows = []
    for name, ways in sorted(record.items()):
        marks = [mark(ways[way][0]) if way in ways else NOT_YET if way in ways_for(name) else NO_TOKENS for way in WAYS]
        reasons = dict.fromkeys(_why(outcome) for outcome, _ in ways.values() if _why(outcome))
        rows.append([name, family_for(name), *marks, "; ".join(reasons)])
    return table(["node", "on", *WAYS, ""], rows)


def _why(outcome: Outcome) -> str:
    if outcome.verdict == REFUSED:
        return outcome.text.partition("\n")[0].replace("|", "\\|")[:300]
    if outcome.verdict == RIGHT and undivided(outcome.notes):
        return "; ".join(note for note in outcome.notes if undivided([note])).replace("|", "\\|")[:300]
    return ""


def exceptions(object_info: dict[str, Any] | None = None) -> list[str]:
    """The nodes that no graph holds, with the reason."""
    names = EXCEPTIONS if object_info is None else [name for name in listed(object_info) if name in EXCEPTIONS]
    return table(["node", "not drawn, because it"], [[name, EXCEPTIONS[name]] for name in sorted(names)])
