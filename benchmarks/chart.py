"""Draws results of models_gpus.py as an SVG file: how many times faster than stock ComfyUI, by the steps alone.

    python3 benchmarks/chart.py --out speed.svg results.json [more.json …]

Every bar stands for one engine and one case, with its milliseconds per step beside it: medians, all of one run.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from xml.sax.saxutils import escape

BAR, GAP, LEFT, WIDTH, RIGHT, TOP = 18, 14, 250, 460, 210, 78
TITLE = "Times faster than stock ComfyUI on one GPU"
STOCK_COLOUR, PACK_COLOURS = "#9aa3ad", ("#8ec3eb", "#3b8fd0", "#1a5f99", "#0b3a63")
FONT = "font-family='system-ui, sans-serif' font-size='13' fill='#1f2933'"


def bars(contents: list[dict]) -> dict[str, list[tuple[str, int, float, float]]]:
    """Case → (engine, ranks, milliseconds per step, times faster than stock); ranks 0 for stock."""
    times: dict[str, dict[tuple[str, int], list[float]]] = {}
    for content in contents:
        for row in content["speeds"]:
            ranks = 0 if row["engine"] == "stock" else row["ranks"]
            case = times.setdefault(f"{row['model']} {row['case']}", {})
            case.setdefault((row["engine"], ranks), []).append(row["ms_per_step"])
    drawn = {}
    for case, engines in times.items():
        if ("stock", 0) in engines:
            middle = {engine: statistics.median(values) for engine, values in engines.items()}
            stock = middle["stock", 0]
            drawn[case] = [(name, ranks, ms, stock / ms) for (name, ranks), ms in middle.items()]
    return drawn


def svg(contents: list[dict]) -> str:
    cases = bars(contents)
    most = max(faster for rows in cases.values() for *_, faster in rows)
    scale = WIDTH / max(1, most)
    parts, y = [], TOP
    for case, rows in cases.items():
        middle = y + len(rows) * BAR / 2 + 4
        parts.append(f"<text x='{LEFT - 12}' y='{middle:.0f}' text-anchor='end' {FONT}>{escape(case)}</text>")
        for name, ranks, ms, faster in rows:
            label, width = escape(f"{faster:.2f} × · {_time(ms)} · {name}"), faster * scale
            parts += [
                f"<rect x='{LEFT}' y='{y + 2}' width='{width:.1f}' height='{BAR - 3}' fill='{_colour(ranks)}'/>",
                f"<text x='{LEFT + width + 6:.0f}' y='{y + BAR - 4}' {FONT}>{label}</text>",
            ]
            y += BAR
        y += GAP
    line = LEFT + scale
    parts.append(
        f"<path d='M{line:.1f} {TOP - 6} V{y - GAP + 4}' stroke='#1f2933' stroke-dasharray='3 3' fill='none'/>"
    )
    gpus = (
        ", ".join(sorted({gpu.split(",")[0] for content in contents for gpu in content["about"]["gpus"]})) or "no GPU"
    )
    about = f"{gpus}; ComfyUI {contents[0]['about']['versions']['ComfyUI']}; random weights; ms of one sampling step"
    width = LEFT + WIDTH + RIGHT
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {y}' width='{width}' height='{y}'>",
            f"<rect width='{width}' height='{y}' fill='white'/>",
            f"<text x='20' y='30' {FONT} style='font-size:18px;font-weight:600'>{TITLE}</text>",
            f"<text x='20' y='52' {FONT}>{escape(about)}</text>",
            *parts,
            "</svg>\n",
        ]
    )


def _time(ms: float) -> str:
    return f"{ms / 1e3:.2f} s" if ms >= 10_000 else f"{ms:.0f} ms"


def _colour(ranks: int) -> str:
    return STOCK_COLOUR if ranks == 0 else PACK_COLOURS[min(ranks.bit_length(), len(PACK_COLOURS)) - 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("results", type=Path, nargs="+")
    options = parser.parse_args()
    contents = [json.loads(path.read_text()) for path in options.results]
    if not bars(contents):
        print("No case of these results has a time of stock ComfyUI to compare with.", file=sys.stderr)
        return 1
    options.out.write_text(svg(contents))
    return 0


if __name__ == "__main__":
    sys.exit(main())
