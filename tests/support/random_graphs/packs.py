"""Published node packs: a graph around each of some of a pack's nodes, beside stock ComfyUI, on a server of its own.

packs.json lists packs with the commit that was tried, and their nodes: "node@family", or a list of that and values of
inputs; other inputs are drawn as in scripts/graphs.py. Or a list of "node + node@family" and {"graph": …} in ComfyUI's
API format, with "$flux" for that file of ModelShelf. Run by scripts/packs.py.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from comfy_host import PACK_ROOT, Host
from comfy_host.instance import ComfyInstance, make_base_directory

from ..comfy import import_comfy
from ..comfy_client import ComfyClient
from ..tiny_models import ModelShelf
from . import nodes
from .catalogue import role_of
from .given import LOADERS
from .pack_files import MAKERS
from .plan import CUSTOM_ROLES, LOADER, STOCK, Plan
from .report import table
from .run import Runner

RECORD = PACK_ROOT / "docs" / "packs.json"
RUNS = Path(__file__).with_name("packs.json")
NOT_THERE = "not there"


@dataclass(frozen=True)
class Tried:
    """`pack`: owner/name on GitHub, `commit`: of it; `graph`: "node@family"; `ours`: the commit here."""

    pack: str
    commit: str
    graph: str
    nodes: list[str]
    model: str
    kind: str
    degrees: dict[str, int]
    verdict: str
    text: str
    error: float | None
    notes: list[str]
    ours: str


def read(path: Path = RECORD) -> list[Tried]:
    return [Tried(**one) for one in json.loads(path.read_text())] if path.is_file() else []


def write(tried: list[Tried], path: Path = RECORD) -> None:
    rows = sorted(tried, key=lambda one: (one.pack.lower(), one.graph, one.kind, str(one.degrees)))
    path.write_text("[\n" + ",\n".join(json.dumps(asdict(one)) for one in rows) + "\n]\n")


def rendered(tried: list[Tried]) -> list[str]:
    rows = [
        [
            f"[{one.pack}](https://github.com/{one.pack})", one.commit[:8], ", ".join(one.nodes) or "merely installed",
            one.model, {LOADER: "xDiT Loader", STOCK: "stock"}[one.kind],
            " × ".join(f"{name} {degree}" for name, degree in one.degrees.items()) or "auto", one.verdict,
            f"{one.error:.1e}" if one.error is not None else one.text.partition("\n")[0].replace("|", "\\|")[:200],
        ]
        for one in tried
    ]  # fmt: skip
    return table(
        ["pack", "commit", "nodes", "model", "MODEL of", "degrees", "", "relative error, or what it said"], rows
    )


def _ranks(degrees: dict[str, int]) -> int:
    return max(math.prod(degrees.values()), 2)


def main() -> int:
    parser = argparse.ArgumentParser(prog="packs", description=__doc__)
    parser.add_argument("--packs", type=Path, required=True, help="a folder with a folder of each pack")
    parser.add_argument("--site", default="", help="a folder with Python packages that the packs need")
    parser.add_argument("--only", nargs="*", help="these packs, as owner/name")
    parser.add_argument("--minutes", type=float, default=9, help="begin no pack after so many minutes")
    parser.add_argument("--again", action="store_true", help="run what was run before, too")
    options = parser.parse_args()
    until = time.monotonic() + options.minutes * 60
    import_comfy(Path(os.environ["COMFYUI_PATH"]))
    from .__main__ import current_commit

    done = {one.pack for one in read()} if not options.again else set()
    for pack in json.loads(RUNS.read_text()):
        wanted = pack["pack"] in options.only if options.only else pack["pack"] not in done
        if wanted and time.monotonic() < until:
            run_pack(pack, options.packs.resolve(), options.site, current_commit())
    return 0


def run_pack(pack: dict[str, Any], folder: Path, site: str, ours: str) -> None:
    """A plain prompt with the pack merely installed, then each of its nodes and graphs; each result is written."""
    from .__main__ import ENVIRONMENT, FLAGS, PACKS

    short = pack["pack"].partition("/")[2]
    jobs = [("@flux", LOADER, {"ulysses": 2}), *((one, *way) for one in pack["nodes"] for way in ways_of(one))]
    while jobs:
        with tempfile.TemporaryDirectory(prefix="xdit-packs-") as place:
            base = make_base_directory(Path(place) / "comfyui", {**PACKS, short: folder / short})
            if pack["pack"] in MAKERS:
                MAKERS[pack["pack"]](base, site)
            ModelShelf(base / "models").flux_lora()
            host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable))
            environment = {**ENVIRONMENT, "PYTHONPATH": site}
            with (
                ComfyInstance(host, base, FLAGS, environment) as comfy,
                ComfyClient(comfy.url, base / "output") as client,
            ):
                jobs = run_jobs(pack, jobs, Runner(comfy, client), ours)


def run_jobs(pack: dict[str, Any], jobs: list[tuple], runner: Runner, ours: str) -> list[tuple]:
    """Those that are left for another server, after one that hangs this one."""
    loads = any(info["python_module"].endswith(pack["pack"].partition("/")[2]) for info in runner.object_info.values())
    for place, (one, kind, degrees) in enumerate(jobs):
        try:
            outcome = runner.judged(plan_around(one, kind, degrees, runner.object_info))
        except LookupError as missing:
            text = f"this ComfyUI lists no node {missing}" if isinstance(missing, KeyError) else str(missing)
            remember(Tried(pack["pack"], pack["commit"], _name(one), [_name(one)], "", kind, degrees, NOT_THERE,
                           text, None, [], ours))  # fmt: skip
            continue
        used = [*outcome.parts, *([outcome.samples] if outcome.samples else [])]
        text = outcome.text if loads or one != "@flux" else "the pack itself does not load in this ComfyUI"
        remember(Tried(pack["pack"], pack["commit"], _name(one), used, outcome.family, kind, degrees, outcome.verdict,
                       text, outcome.error, outcome.notes, ours))  # fmt: skip
        if outcome.lost:
            return jobs[place + 1 :]
    return []


def _name(one: str | list) -> str:
    return one if isinstance(one, str) else one[0]


def ways_of(one: str | list) -> list[tuple[str, dict[str, int]]]:
    """Kinds of MODEL and degrees that a node is tried with."""
    given = {} if isinstance(one, str) else one[1].get("graph", {})
    if given and not any(node["class_type"] in LOADERS for node in given.values()):
        return [(STOCK, {"ulysses": 2}), (STOCK, {"cfg": 2})]
    tokens = {"cfg": 2} if _name(one).endswith("@sdxl") else {"ulysses": 2}
    return [(LOADER, tokens), (STOCK, {"cfg": 2})]


def plan_around(one: str | list, kind: str, degrees: dict[str, int], object_info: dict[str, Any]) -> Plan:
    """A graph with one node of a pack: "node@family", or a list of that and the values of inputs. Raises KeyError."""
    place, values = (one, {}) if isinstance(one, str) else one
    name, _, family = place.rpartition("@")
    if "graph" in values:
        parts = tuple(part for part in name.split(" + ") if object_info[part])
        return replace(nodes.plan_around(name, family, degrees), kind=kind, parts=parts, given=values["graph"])
    samples = bool(name) and role_of(object_info[name]) == "samples"
    if samples:
        kind = LOADER  # it samples itself, so that only our loader can bring the ranks
    return replace(
        nodes.plan_around(name, family, degrees),
        kind=kind,
        parts=(name,) if name and not samples else (),
        samples=name if samples else None,
        custom=bool(name) and role_of(object_info[name]) in {*CUSTOM_ROLES, "latent"},
        ranks=_ranks(degrees),
        values=values,
    )


def remember(one: Tried) -> None:
    """In docs/packs.json, in place of an earlier run of the same."""

    def place(tried: Tried) -> tuple:
        return tried.pack, tried.graph, tried.kind, str(tried.degrees)

    write([*(tried for tried in read() if place(tried) != place(one)), one])
    print(f"{one.pack}, {one.graph or 'installed'}, {one.model}, {one.kind}, {one.degrees}: {one.verdict} {one.error}"
          f" {one.text[:300]!r}", flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
