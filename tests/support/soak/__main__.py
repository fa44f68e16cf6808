"""One part of the soak: goes on where the last part stopped, and writes docs/reliability.json and .md."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from comfy_host import PACK_ROOT, Host
from comfy_host.instance import ComfyInstance, make_base_directory

from ..comfy import import_comfy
from ..comfy_client import ComfyClient
from .plan import make_plan
from .report import Record, render
from .resources import growth
from .run import Outcome, Soak

RECORD = PACK_ROOT / "docs" / "reliability.json"
TABLE = PACK_ROOT / "docs" / "reliability.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=9, help="begin no prompt after so many minutes")
    parser.add_argument("--again", action="store_true", help="forget what was recorded")
    options = parser.parse_args()
    until = time.monotonic() + options.minutes * 60
    record = Record(options.prompts, options.kills, options.seed)
    if RECORD.is_file() and not options.again:
        kept = Record.read(RECORD)
        if (kept.prompts, kept.kills, kept.seed) != (record.prompts, record.kills, record.seed):
            print(f"{RECORD.name} is of another plan ({kept.plan}); use --again to forget it", file=sys.stderr)
            return 2
        record = kept
    plan = make_plan(options.prompts, options.kills, options.seed)
    left = plan[record.done :]
    if left:
        run_part(record, left, until)
    TABLE.write_text(render(record, plan))
    bad = [f"prompt {outcome.number}: {outcome.end}" for outcome in record.outcomes() if not outcome.good]
    bad += [line for part in record.parts for line in growth([one.resources for one in part if one.resources])]
    print("\n".join([*bad, f"{record.done} of {record.prompts} prompts done, {len(bad)} bad; {TABLE.name} is written"]))
    return 1 if bad else 0


def run_part(record: Record, left: list, until: float) -> None:
    """A server of its own for as many of the steps `left` as fit."""
    import_comfy(Path(os.environ["COMFYUI_PATH"]))
    nodes = PACK_ROOT / "tests" / "support" / "host_nodes"
    part: list[Outcome] = []
    record.parts.append(part)

    def keep(outcome: Outcome) -> None:
        part.append(outcome)
        RECORD.write_text(json.dumps(asdict(record), indent=1) + "\n")
        print(f"{outcome.number + 1}/{record.prompts} {outcome.end}", flush=True)

    with tempfile.TemporaryDirectory(prefix="xdit-soak-") as folder:
        base = make_base_directory(Path(folder) / "comfyui", {"xdit-test-nodes": nodes})
        host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable))
        with (
            ComfyInstance(host, base, ["--cpu", "--force-fp32"], {"OMP_NUM_THREADS": "1"}) as comfy,
            ComfyClient(comfy.url, base / "output") as client,
        ):
            soak = Soak(comfy, client)
            soak.prepare()
            soak.run(left, keep, until)


if __name__ == "__main__":
    sys.exit(main())
