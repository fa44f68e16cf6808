"""Runs what is missing in docs/pipefusion.json on a server of its own, and writes docs/pipefusion.md."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from comfy_host import PACK_ROOT, Host
from comfy_host.instance import ComfyInstance, make_base_directory

from ..comfy import import_comfy
from ..comfy_client import ComfyClient
from ..tiny_models import ModelShelf
from .deviation import Deviation, places
from .plan import by_ranks
from .report import COUNT, RECORD, TABLE, Record, place_of, render
from .run import Outcome, Runner

MEASURED = ("nodes", "parallel_backend", "tests/support")  # what a result depends on, apart from ComfyUI


def main() -> int:
    parser = argparse.ArgumentParser(prog="pipelines", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="configurations, from number 0 on")
    parser.add_argument("--minutes", type=float, default=9, help="begin no prompt after so many minutes")
    parser.add_argument("--again", action="store_true", help="first forget results of other commits")
    options = parser.parse_args()
    until = time.monotonic() + options.minutes * 60
    import_comfy(Path(os.environ["COMFYUI_PATH"]))
    commit, record = current_commit(), Record.read(RECORD)
    if options.again:
        record.outcomes = {number: found for number, found in record.outcomes.items() if found[1] == commit}
        record.deviations = {place: found for place, found in record.deviations.items() if found[1] == commit}
    left = [one for one in by_ranks(options.count) if one.number not in record.outcomes]
    cells = [place for place in places() if place_of(*place) not in record.deviations]
    if left or cells:
        run_part(record, commit, left, cells, until)
    TABLE.write_text(render(record, options.count))
    done = sum(number < options.count for number in record.outcomes)
    print("\n".join([*record.bad, f"{done} of {options.count} configurations done, {len(record.bad)} bad"]))
    print(f"{len(record.deviations)} of {len(places())} deviations measured; {TABLE.name} is written")
    return 1 if record.bad else 0


def current_commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=PACK_ROOT, check=True, capture_output=True, text=True).stdout

    changed = git("status", "--porcelain", "--untracked-files=no", "--", *MEASURED).strip()
    return git("rev-parse", "--short=12", "HEAD").strip() + (" with changes" if changed else "")


def run_part(record: Record, commit: str, left: list, cells: list, until: float) -> None:
    """As much as fits of the configurations `left` and of the table's `cells`; each result is written at once."""

    def keep(outcome: Outcome) -> None:
        record.outcomes[outcome.number] = (outcome, commit)
        record.write(RECORD)
        print(f"{outcome.number}: {outcome.end}, {outcome.seconds:.1f} s", flush=True)

    nodes = PACK_ROOT / "tests" / "support" / "host_nodes"
    with tempfile.TemporaryDirectory(prefix="xdit-pipelines-") as folder:
        base = make_base_directory(Path(folder) / "comfyui", {"xdit-test-nodes": nodes})
        host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable))
        with (
            ComfyInstance(host, base, ["--cpu", "--force-fp32"], {"OMP_NUM_THREADS": "1"}) as comfy,
            ComfyClient(comfy.url, base / "output") as client,
        ):
            Runner(comfy, client).run(left, keep, until)
            deviation = Deviation(client, ModelShelf(base / "models"))
            for place in cells:
                if time.monotonic() > until:
                    return
                record.deviations[place_of(*place)] = (deviation.measure(*place), commit)
                record.write(RECORD)
                print(f"{place_of(*place)}: {record.deviations[place_of(*place)][0]:.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
