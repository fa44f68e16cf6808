"""The measured table of models: docs/models.json holds every run, docs/models.md is made from it.

Run by scripts/model_table.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from support.architectures import architectures
from support.comfy import import_comfy
from support.model_case import ModelCase
from support.model_matrix import COLUMNS, TOLERANCE, architecture_of, commands, counts_for, shown
from support.model_side import TREE
from support.pack import register_pack
from support.rank_set import RankSet, RankSets

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "models.json"
TABLE = ROOT / "docs" / "models.md"
MEASURED = ("parallel_backend", "tests/models", "tests/support")  # what a result depends on, apart from ComfyUI
YES, NO, NOT_YET, NONE = "✓", "✗", "…", "–"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many minutes")
    parser.add_argument("--only", default="", help="run cases whose name holds this text")
    parser.add_argument("--again", action="store_true", help="first forget results of other commits")
    options = parser.parse_args()
    tree = Path(os.environ["COMFYUI_PATH"])
    import_comfy(tree)
    register_pack()
    from models.cases import CASES

    results = read_results()
    commit = current_commit()
    results = {
        name: result
        for name, result in results.items()
        if name in CASES and (result["commit"] == commit or not options.again)
    }
    chosen = {name: case for name, case in CASES.items() if options.only in name}
    left = measure(chosen, results, commit, tree, time.monotonic() + options.minutes * 60)
    TABLE.write_text(render(CASES, results))
    failed = [f"{name}: {label}: {error}" for name, label, error in failures(results)]
    print("\n".join([*failed, f"{left} runs left, {len(failed)} failed; {TABLE.relative_to(ROOT)} is up to date"]))
    return 1 if failed else 0


def read_results() -> dict[str, dict]:
    """Case → {"commit", "errors": {run: relative error, or what went wrong}}."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def write_results(results: dict[str, dict]) -> None:
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    partial.rename(RESULTS)


def current_commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", *MEASURED)
    return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")


def measure(cases: dict[str, ModelCase], results: dict[str, dict], commit: str, tree: Path, deadline: float) -> int:
    """Runs what is missing, each result written at once; the number of runs left at the deadline.

    A case that was begun on another commit and not finished is begun anew, so that its runs are of one commit.
    """
    ranks = RankSets("support.model_side:ModelSide", {TREE: str(tree)})
    left = 0
    try:
        for name, case in cases.items():
            runs = commands(case)
            known = results.get(name, {"commit": commit, "errors": {}})
            if known["commit"] != commit and known["errors"].keys() != runs.keys():
                known = {"commit": commit, "errors": {}}
            for label, (size, command) in runs.items():
                if label in known["errors"]:
                    continue
                if time.monotonic() >= deadline:
                    left += 1
                    continue
                known["errors"][label] = measured(ranks[size], command)
                print(f"{name}, {label}: {known['errors'][label]}", flush=True)
                results[name] = known
                write_results(results)
    finally:
        ranks.stop()
    return left


def measured(ranks: RankSet, command: tuple) -> float | str:
    try:
        return float(f"{max(ranks.run(command)):.1e}")
    except RuntimeError as error:
        return str(error).strip().splitlines()[-1]


def failures(results: dict[str, dict]) -> list[tuple[str, str, float | str]]:
    return [
        (name, label, error)
        for name, result in results.items()
        for label, error in result["errors"].items()
        if not passed(error)
    ]


def passed(error: float | str) -> bool:
    return isinstance(error, float) and error <= TOLERANCE


def render(cases: dict[str, ModelCase], results: dict[str, dict]) -> str:
    import comfyui_version
    from xdit_comfyui.parallel_backend.sharding.plans.unsharded import LATER, UNSHARDED

    names, rows = defaultdict(list), defaultdict(list)
    for name, architecture in architectures().items():
        names[architecture].append(name)
    for architecture, (version, later) in LATER.items():
        names[architecture] = [f"{name} (from ComfyUI {version})" for name in later]
    for case in cases.values():
        rows[architecture_of(case)].append(case)
    commits = sorted({result["commit"] for result in results.values()})
    head = ["Models in ComfyUI", *COLUMNS, "tokens between blocks", "also with", "largest error"]
    planned = sorted(rows.items(), key=lambda row: sorted(names[row[0]]))
    return "\n".join(
        [
            "# Models",
            "",
            f"Made by `python3 scripts/model_table.py` with ComfyUI {comfyui_version.__version__}, on commit"
            f" {', '.join(commits) or '(none yet)'}.",
            "",
            "Real ComfyUI classes with tiny random weights, fp32, 2 to 4 processes on a CPU. Error:"
            f" ‖divided − one device‖ / ‖one device‖, the largest of all runs; at most {TOLERANCE:.0e} is a {YES}.",
            "Ulysses: over 2, 3 and 4 ranks. Ring: over 2 and 3, and Ulysses 2 × ring 2. CFG, batch: two conditions and"
            " two rows over 2 ranks, and over 4 with Ulysses.",
            f"{NOT_YET}: not measured yet. {NO}: failed. {NONE}: no case; most of these models take no such input.",
            "",
            *_table(head, [_row(names[architecture], found, results) for architecture, found in planned]),
            "",
            "## Not divided by tokens",
            "",
            "A sampled one of these is divided by CFG and by batch all the same, as the tests show for SDXL.",
            "",
            *_table(
                ["Models in ComfyUI", "why"],
                sorted([", ".join(sorted(names[architecture])), reason] for architecture, reason in UNSHARDED.items()),
            ),
            "",
        ]
    )


def _row(names: list[str], cases: list[ModelCase], results: dict[str, dict]) -> list[str]:
    marks = defaultdict(list)
    errors = []
    for case in cases:
        found = results.get(case.name, {"errors": {}})["errors"]
        inputs = shown(case)
        for label in commands(case):
            error = found.get(label)
            for column in {counts_for(label), *inputs - {*COLUMNS[:2], *COLUMNS[4:]}}:
                marks[column].append(NOT_YET if error is None else YES if passed(error) else NO)
            errors += [error] if passed(error) else []
    modes = [mode for mode in ("persist", "block") if any(mode in case.modes for case in cases)]
    between = {"persist": "split", "block": "whole"}
    special = [case.name.partition(": ")[2] for case in cases]
    return [
        ", ".join(sorted(names)),
        *(_mark(marks[column]) for column in COLUMNS),
        " or ".join(between[mode] for mode in modes),
        "; ".join(dict.fromkeys(name for name in special if name != "plain")) or NONE,
        f"{max(errors):.1e}" if errors else NOT_YET,
    ]


def _mark(found: list[str]) -> str:
    return next((mark for mark in (NO, NOT_YET, YES) if mark in found), NONE)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


if __name__ == "__main__":
    sys.exit(main())
