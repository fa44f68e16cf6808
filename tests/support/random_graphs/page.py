"""docs/custom-nodes.md: its text is custom-nodes.md in this folder, its tables come from the records in docs/."""

from __future__ import annotations

from pathlib import Path

from comfy_host import PACK_ROOT

from . import nodes, packs
from .report import COUNT, RECORD, Record, summary

TEXT = Path(__file__).with_name("custom-nodes.md")
PAGE = PACK_ROOT / "docs" / "custom-nodes.md"


def render(graphs: Record, patch_nodes: nodes.Record, tried: list[packs.Tried], wanted: int = COUNT) -> str:
    import comfyui_version

    commits = {commit for _, commit in graphs.outcomes.values()}
    commits |= {commit for ways in patch_nodes.values() for _, commit in ways.values()}
    parts = {
        "ComfyUI": comfyui_version.__version__,
        "commits": ", ".join(sorted(commits)) or "(none yet)",
        "nodes": "\n".join(nodes.rendered(patch_nodes)),
        "graphs": "\n".join(summary(graphs, wanted)).rstrip(),
        "exceptions": "\n".join(nodes.exceptions()),
        "packs": "\n".join(packs.rendered(tried)),
    }
    text = TEXT.read_text()
    for name, part in parts.items():
        text = text.replace("{" + name + "}", part)
    return text


def write() -> None:
    PAGE.write_text(render(Record.read(RECORD), nodes.read(), packs.read()))
