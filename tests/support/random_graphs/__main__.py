"""Runs what is missing in docs/graphs.json on servers of its own, and writes docs/custom-nodes.md."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comfy_host import PACK_ROOT, Host
from comfy_host.instance import ComfyInstance, make_base_directory

from ..comfy import import_comfy
from ..comfy_client import ComfyClient
from ..tiny_models import ModelShelf
from . import nodes, page
from .compose import compose
from .plan import by_ranks, plan
from .report import COUNT, RECORD, Record
from .run import Outcome, Runner, ServerLost

MEASURED = ("nodes", "parallel_backend", "tests/support")  # what a result depends on, apart from ComfyUI
SUPPORT = PACK_ROOT / "tests" / "support"
PACKS = {
    "xdit-test-nodes": SUPPORT / "host_nodes",
    "xdit-test-foreign": SUPPORT / "foreign_nodes",
    "xdit-test-graphs": SUPPORT / "graph_nodes",
}
FLAGS, ENVIRONMENT = ("--cpu", "--force-fp32"), {"OMP_NUM_THREADS": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="graphs", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="graphs, from number 0 on")
    parser.add_argument("--only", type=int, nargs="*", help="run these numbers (again)")
    parser.add_argument("--nodes", action="store_true", help="instead: each of ComfyUI's patch nodes by itself")
    parser.add_argument("--show", type=int, help="print a graph, by the ranks and by stock ComfyUI; run nothing")
    parser.add_argument("--minutes", type=float, default=9, help="begin no graph after so many minutes")
    parser.add_argument("--again", action="store_true", help="first forget results of other commits")
    options = parser.parse_args()
    until = time.monotonic() + options.minutes * 60
    import_comfy(Path(os.environ["COMFYUI_PATH"]))
    if options.show is not None:
        show(options.show)
        return 0
    if options.nodes:
        return patch_nodes(until, options.again)
    commit, record = current_commit(), Record.read(RECORD)
    if options.again:
        record.outcomes = {number: found for number, found in record.outcomes.items() if found[1] == commit}
    wanted = options.only if options.only is not None else range(options.count)
    for number in options.only or ():
        record.outcomes.pop(number, None)
    run_part(record, commit, list(wanted), until)
    page.write()
    done = sum(number < options.count for number in record.outcomes)
    print("\n".join([*record.bad, f"{done} of {options.count} graphs done, {len(record.bad)} bad"]))
    return 1 if record.bad else 0


def patch_nodes(until: float, again: bool) -> int:
    commit, record = current_commit(), nodes.read()
    if again:
        record = {name: {way: one for way, one in ways.items() if one[1] == commit} for name, ways in record.items()}
    lost = True
    while lost:
        with server() as (comfy, client):
            try:
                nodes.measure(Runner(comfy, client), record, commit, lambda: time.monotonic() > until)
                lost = False
            except ServerLost as error:
                print(f"another server: {error}", flush=True)
    page.write()
    print("\n".join([*nodes.bad(record), f"{len(record)} nodes done, {len(nodes.bad(record))} results bad"]))
    return 1 if nodes.bad(record) else 0


def show(number: int) -> None:
    with server() as (comfy, client):
        info, models = client.object_info(), ModelShelf(comfy.base / "models")
        one = plan(number, info)
        prompts = {name: compose(one, info, models, ours=name == "ranks").prompt for name in ("ranks", "stock")}
    print(one)
    print(json.dumps(prompts, indent=1))


def current_commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=PACK_ROOT, check=True, capture_output=True, text=True).stdout

    changed = git("status", "--porcelain", "--untracked-files=no", "--", *MEASURED).strip()
    return git("rev-parse", "--short=12", "HEAD").strip() + (" with changes" if changed else "")


def run_part(record: Record, commit: str, wanted: list[int], until: float) -> None:
    """As much as fits of what is missing; each result is written at once. A server that a graph hangs is replaced."""

    def keep(outcome: Outcome) -> None:
        record.outcomes[outcome.number] = (outcome, commit)
        record.write(RECORD)
        parts = ", ".join([*outcome.parts, outcome.samples])
        print(f"{outcome.number} ({outcome.family}, {parts}): {outcome.verdict} {outcome.text[:200]!r}", flush=True)

    while time.monotonic() < until and (left := [number for number in wanted if number not in record.outcomes]):
        with server() as (comfy, client):
            runner = Runner(comfy, client)
            try:
                runner.run(by_ranks(left, runner.object_info), keep, until)
            except ServerLost as error:
                print(f"another server: {error}", flush=True)


@contextmanager
def server() -> Iterator[tuple[ComfyInstance, ComfyClient]]:
    with tempfile.TemporaryDirectory(prefix="xdit-graphs-") as folder:
        base = make_base_directory(Path(folder) / "comfyui", PACKS)
        host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable))
        with ComfyInstance(host, base, FLAGS, ENVIRONMENT) as comfy, ComfyClient(comfy.url, base / "output") as client:
            yield comfy, client


if __name__ == "__main__":
    sys.exit(main())
