"""Published node packs: one graph with a pack's nodes, beside stock ComfyUI, on a server of its own.

Run by scripts/packs.py. A graph is a JSON file in ComfyUI's API format, as stock ComfyUI runs it: loaders and samplers
of the MODELs are exchanged for the ranks' run. A text "$flux" stands for the file of that name of ModelShelf. Or it is
composed around one of the pack's nodes, as those of scripts/graphs.py are, with values of inputs given.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from comfy_host import PACK_ROOT, Host
from comfy_host.instance import ComfyInstance, make_base_directory

from ..comfy import import_comfy
from ..comfy_client import ComfyClient, PromptFailed, PromptRefused
from ..compare import TOLERANCE
from ..parity import relative_error
from ..tiny_models import ModelShelf
from . import nodes
from .catalogue import role_of
from .notes import notes_in
from .plan import CUSTOM_ROLES, LOADER, STOCK, Plan
from .report import table
from .run import CRASHES, HANGS, REFUSALS, REFUSED, RIGHT, STOCK_FAILS, WRONG, Runner

RECORD = PACK_ROOT / "docs" / "packs.json"
SUPPORT = PACK_ROOT / "tests" / "support"
END_WITHIN_S = 120
LOADERS = {"UNETLoader": "XDiTLoader", "CheckpointLoaderSimple": "XDiTCheckpointLoader"}
SAMPLERS = {"KSampler": "XDiTSampler", "SamplerCustomAdvanced": "XDiTSamplerAdvanced"}


@dataclass(frozen=True)
class Tried:
    """`pack`: owner/name on GitHub, `commit`: of it; `graph`: the name of the graph's file; `ours`: the commit here."""

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


def filled(graph: dict[str, dict], models: ModelShelf) -> tuple[dict[str, dict], list[str]]:
    """The graph with files for its "$…", and their names."""
    names: list[str] = []

    def value(given: Any) -> Any:
        if isinstance(given, str) and given.startswith("$"):
            names.append(given[1:])
            return getattr(models, given[1:])()
        return given

    return {
        key: {**node, "inputs": {name: value(given) for name, given in node["inputs"].items()}}
        for key, node in graph.items()
    }, names


def by_the_ranks(graph: dict[str, dict], kind: str, degrees: dict[str, int]) -> dict[str, dict]:
    """The same graph with our loader, or with our sampler. Raises ValueError where it has none to exchange."""
    exchanged = LOADERS if kind == LOADER else SAMPLERS
    config = {
        "devices": f"cpu:{_ranks(degrees)}", "strategy": "manual" if degrees else "auto",
        **dict.fromkeys(("ulysses", "ring", "cfg", "batch", "pipefusion"), 1), **degrees, "attention": "auto",
        "unsupported": "run on one device",
    }  # fmt: skip
    made = {"xdit": {"class_type": "XDiTParallelConfig", "inputs": config}}
    for key, node in graph.items():
        if name := exchanged.get(node["class_type"]):
            node = {"class_type": name, "inputs": {**node["inputs"], "parallel_config": ["xdit", 0]}}
        made[key] = node
    if all(node["class_type"] not in exchanged.values() for node in made.values()):
        raise ValueError(f"the graph holds none of {', '.join(exchanged)}")
    return made


def _ranks(degrees: dict[str, int]) -> int:
    product = 1
    for degree in degrees.values():
        product *= degree
    return max(product, 2)


def latent_of(client: ComfyClient, graph: dict[str, dict]) -> Any:
    """The latent of the graph's SaveLatent. Raises PromptFailed, PromptRefused or TimeoutError."""
    (saved,) = (key for key, node in graph.items() if node["class_type"] == "SaveLatent")
    return client.latent(client.run(graph, END_WITHIN_S), saved)


def tried_in(
    comfy: ComfyInstance, client: ComfyClient, graph: dict[str, dict], kind: str, degrees: dict[str, int]
) -> tuple[str, str, float | None, list[str], list[str]]:
    """Verdict, text, relative error, what the console said, and the names of the files."""
    stock_graph, names = filled(graph, ModelShelf(comfy.base / "models"))
    try:
        stock = latent_of(client, stock_graph)
    except (PromptFailed, PromptRefused, TimeoutError) as error:
        return STOCK_FAILS, _first(error), None, [], names
    mark = comfy.log.stat().st_size
    try:
        found = latent_of(client, by_the_ranks(stock_graph, kind, degrees))
    except TimeoutError as error:
        return HANGS, str(error), None, notes_in(comfy.log_since(mark)), names
    except (PromptFailed, PromptRefused) as error:
        return _refusal(error), _first(error), None, notes_in(comfy.log_since(mark)), names
    log = comfy.log_since(mark)
    error = relative_error(found, stock)
    if "Traceback (most recent call last)" in log:
        return CRASHES, "a traceback in the console", error, notes_in(log), names
    return RIGHT if error <= TOLERANCE else WRONG, "", error, notes_in(log), names


def _refusal(error: PromptFailed | PromptRefused) -> str:
    if isinstance(error, PromptRefused):
        return REFUSED
    said = error.result.error
    named = said is not None and said.type.rpartition(".")[2] in REFUSALS and "Traceback (most" not in said.message
    return REFUSED if named else CRASHES


def _first(error: Exception) -> str:
    return str(error)[:700]


def main() -> int:
    parser = argparse.ArgumentParser(prog="packs", description=__doc__)
    parser.add_argument("--pack", type=Path, required=True, help="a folder that holds the pack's files")
    parser.add_argument("--name", required=True, help="owner/name on GitHub")
    parser.add_argument("--commit", required=True, help="of the pack")
    parser.add_argument("--site", default="", help="a folder with Python packages that the pack needs")
    parser.add_argument("--graph", type=Path, nargs="*", default=[], help="JSON files in ComfyUI's API format")
    parser.add_argument(
        "--node",
        nargs="*",
        default=[],
        help="such as PerturbedAttention@sdxl, or a JSON list of that"
        " and the values of its inputs; @flux: merely installed",
    )
    parser.add_argument("--kind", choices=(LOADER, STOCK), nargs="+", default=[LOADER])
    parser.add_argument(
        "--degrees", nargs="+", default=["ulysses=2"], help="such as ulysses=2, cfg=2,ulysses=2 or auto"
    )
    options = parser.parse_args()
    import_comfy(Path(os.environ["COMFYUI_PATH"]))
    from .__main__ import ENVIRONMENT, FLAGS, PACKS, current_commit

    commit, name = current_commit(), options.name.partition("/")[2]
    with tempfile.TemporaryDirectory(prefix="xdit-packs-") as folder:
        base = make_base_directory(Path(folder) / "comfyui", {**PACKS, name: options.pack.resolve()})
        host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable))
        environment = {**ENVIRONMENT, "PYTHONPATH": options.site}
        with ComfyInstance(host, base, FLAGS, environment) as comfy, ComfyClient(comfy.url, base / "output") as client:
            info = client.object_info()
            own = {key for key, node in info.items() if node["python_module"] == f"custom_nodes.{name}"}
            runner = Runner(comfy, client)
            for kind, text in itertools.product(options.kind, options.degrees):
                degrees = parsed(text)
                for path in options.graph:
                    graph = json.loads(path.read_text())
                    verdict, said, error, notes, files = tried_in(comfy, client, graph, kind, degrees)
                    used = sorted({node["class_type"] for node in graph.values()} & own)
                    model = ", ".join(sorted(set(files)))
                    found = (path.stem, used, model, kind, degrees, verdict, said, error, notes)
                    remember(Tried(options.name, options.commit, *found, commit))
                for one in options.node:
                    outcome = runner.judged(plan_around(one, kind, degrees, runner.object_info))
                    used = [*outcome.parts, *([outcome.samples] if outcome.samples else [])]
                    found = (", ".join(used), used, outcome.family, kind, degrees, outcome.verdict, outcome.text,
                             outcome.error, outcome.notes)  # fmt: skip
                    remember(Tried(options.name, options.commit, *found, commit))
    return 0


def plan_around(one: str, kind: str, degrees: dict[str, int], object_info: dict[str, Any]) -> Plan:
    """A graph with one node of a pack: "node@family", or a JSON list of that and a dictionary of inputs."""
    place, values = json.loads(one) if one.startswith("[") else (one, {})
    name, _, family = place.rpartition("@")
    samples = bool(name) and role_of(object_info[name]) == "samples"
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


def parsed(text: str) -> dict[str, int]:
    """Of "ulysses=2,cfg=2"; none of "auto"."""
    parts = [] if text == "auto" else [part.partition("=") for part in text.split(",")]
    return {name: int(degree) for name, _, degree in parts}


if __name__ == "__main__":
    sys.exit(main())
