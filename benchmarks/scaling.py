"""Draws how sampling scales with the number of GPUs, as a PNG file: one panel for each model and size.

    python benchmarks/scaling.py --out scaling.png results.json [limits.json xdit.json …]

Takes results of models_gpus.py (with the arithmetic limits that it counted, or those of a run with --only-limits) and
of xdit_flux.py. A curve is how many times faster than stock ComfyUI on one GPU in the same run: the fastest engine of
its kind on so many GPUs, by the median of its steps. The dashed line is the arithmetic limit: all operations of a step
at the rate that the limits' file names, divided by the number of GPUs. A case that is in several files is drawn from
the first; one on a single number of GPUs is left out. A file may hold several such results as its "runs". Needs
Pillow.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # pixels drawn for each pixel of the design: sharp on every screen
WIDTH, HEIGHT, MARGIN, TOP, COLUMNS = 330, 270, 24, 96, 3
LEFT, RIGHT, ABOVE, BELOW = 44, 64, 40, 40  # of the plot inside its panel
INK, PALE, PACK, XDIT, LIMIT = "#1f2933", "#d5dae0", "#1a5f99", "#d9822b", "#8a94a0"
COLOURS_KEPT = 64
MOST_LINES = 6
SPELLED = str.maketrans({"²": " px", "×": "x"})  # Pillow's own font has neither
TITLE = "Times faster than stock ComfyUI on one GPU"
NAMES = {"pack": "this pack", "xdit": "xDiT 0.7 (xfuser's own wrapper)"}
COLOURS = {"pack": PACK, "xdit": XDIT}
ENGINES = {"pack": "pack", "pack-ring": "pack", "xdit": "xdit"}  # of xdit_flux.py, those with stock's weights


@dataclass
class Panel:
    """Milliseconds: `stock` on one GPU, `curves`: kind → number of GPUs → ms, `limit` on one GPU if it is known."""

    title: str
    stock: float
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    limit: float | None = None
    compiled: bool = False

    @property
    def gpus(self) -> list[int]:
        return sorted({1, *(number for curve in self.curves.values() for number in curve)})

    @property
    def most(self) -> float:
        """The largest number of times that is drawn."""
        found = [self.stock / ms for curve in self.curves.values() for ms in curve.values()]
        return max([1.0, *found, *([self.stock / self.limit * self.gpus[-1]] if self.limit else [])])


def panels(contents: list[dict]) -> list[Panel]:
    limits = {
        f"{row['model']} {row['case']}": row["ms_one_gpu"] for content in contents for row in content.get("limits", [])
    }
    found: dict[str, Panel] = {}
    for content in contents:
        for panel in _of_models(content, limits) if "speeds" in content else _of_calls(content, limits):
            if any(len(curve) > 1 for curve in panel.curves.values()):
                found.setdefault(panel.title, panel)
    return list(found.values())


def _of_models(content: dict, limits: dict[str, float]) -> list[Panel]:
    times: dict[str, dict[tuple[str, int], list[float]]] = {}
    for row in content["speeds"]:
        case = times.setdefault(f"{row['model']} {row['case']}", {})
        case.setdefault((row["engine"], row["ranks"]), []).append(row["ms_per_step"])
    found = []
    for title, engines in times.items():
        if ("stock", 1) not in engines:
            continue
        panel = Panel(title, statistics.median(engines.pop(("stock", 1))), limit=limits.get(title))
        panel.compiled = all("compiled" in name for name, _ in engines)
        for (_, ranks), ms in engines.items():
            _keep_fastest(panel, "pack", ranks, statistics.median(ms))
        found.append(panel)
    return found


def _of_calls(content: dict, limits: dict[str, float]) -> list[Panel]:
    found: dict[int, Panel] = {}
    rows = content["medians"]
    for row in rows:
        if row["engine"] == "stock":
            limit = limits.get(f"FLUX.1-dev {row['pixels']}²")
            found[row["pixels"]] = Panel(f"FLUX.1-dev {row['pixels']}², one call", row["ms"], limit=limit)
    for row in rows:
        if row["engine"] in ENGINES and row["pixels"] in found:
            _keep_fastest(found[row["pixels"]], ENGINES[row["engine"]], row["gpus"], row["ms"])
    return list(found.values())


def _keep_fastest(panel: Panel, kind: str, gpus: int, ms: float) -> None:
    curve = panel.curves.setdefault(kind, {})
    curve[gpus] = min(ms, curve.get(gpus, math.inf))


class Pen:
    """Draws in design pixels, from the upper left corner of a panel."""

    def __init__(self, image: Image.Image, x: float = 0, y: float = 0):
        self._draw, self._x, self._y = ImageDraw.Draw(image), x, y

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return (self._x + x) * SCALE, (self._y + y) * SCALE

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1.0, dashed: bool = False) -> None:
        for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
            parts = max(1, round(math.hypot(x1 - x0, y1 - y0) / 4)) if dashed else 1
            for part in range(0, parts, 2):
                ends = [(x0 + (x1 - x0) * at / parts, y0 + (y1 - y0) * at / parts) for at in (part, part + 1)]
                self._draw.line([self._at(*end) for end in ends], fill=colour, width=round(width * SCALE))

    def dot(self, x: float, y: float, colour: str, radius: float = 3.5) -> None:
        self._draw.ellipse([self._at(x - radius, y - radius), self._at(x + radius, y + radius)], fill=colour)

    def text(self, x: float, y: float, text: str, colour: str = INK, size: float = 12, anchor: str = "ls") -> None:
        """`anchor`: Pillow's: l, m, r for left, middle, right and s, m for baseline, middle."""
        font = ImageFont.load_default(size * SCALE)
        self._draw.text(self._at(x, y), text.translate(SPELLED), fill=colour, font=font, anchor=anchor)

    def width(self, text: str, size: float = 12) -> float:
        return ImageFont.load_default(size * SCALE).getlength(text) / SCALE


def draw_panel(pen: Pen, panel: Panel) -> None:
    gpus, most = panel.gpus, panel.most * 1.08
    right, low = WIDTH - RIGHT, HEIGHT - BELOW

    def place(number: float, times: float) -> tuple[float, float]:
        share = (number - 1) / (gpus[-1] - 1) if gpus[-1] > 1 else 0.5
        return LEFT + 14 + (right - LEFT - 14) * share, low - (low - ABOVE) * times / most

    pen.text(LEFT, 18, panel.title + (", compiled" if panel.compiled else ""), size=13.5)
    for times in _ticks(most):
        _, y = place(1, times)
        pen.line([(LEFT, y), (right, y)], PALE)
        pen.text(LEFT - 6, y, f"{times:g}", anchor="rm", size=11)
    for number in gpus:
        x, _ = place(number, 0)
        pen.text(x, low + 16, f"{number} GPU{'s' if number > 1 else ''}", anchor="ms", size=11)
    pen.line([place(1, 1), (right, place(1, 1)[1])], INK)
    labels = [(place(1, 1)[1], "stock", INK)]
    if panel.limit is not None:
        points = [place(number, panel.stock / panel.limit * number) for number in (gpus[0], gpus[-1])]
        pen.line(points, LIMIT, 1.2, dashed=True)
        labels.append((points[-1][1], f"limit {panel.stock / panel.limit * gpus[-1]:.1f} ×", LIMIT))
    for kind, curve in panel.curves.items():
        points = [place(number, panel.stock / ms) for number, ms in sorted(curve.items())]
        pen.line(points, COLOURS[kind], 2.2)
        for point in points:
            pen.dot(*point, COLOURS[kind])
        last = panel.stock / curve[max(curve)]
        labels.append((points[-1][1], f"{last:.2f} ×", COLOURS[kind]))
    for y, label, colour in _apart(labels):
        pen.text(right + 8, y, label, colour, 11.5, "lm")


def _ticks(most: float) -> list[float]:
    steps = (part * 10**power for power in range(-1, 9) for part in (1, 2, 5))
    step = next(step for step in steps if most / step <= MOST_LINES)
    return [step * number for number in range(int(most / step) + 1)]


def _apart(labels: list[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """The labels from bottom to top, moved up where they would cover each other."""
    placed, free = [], math.inf
    for y, text, colour in sorted(labels, reverse=True):
        free = min(y, free)
        placed.append((free, text, colour))
        free -= 14
    return placed


def picture(contents: list[dict]) -> Image.Image:
    found = panels(contents)
    columns = min(COLUMNS, len(found))
    rows = math.ceil(len(found) / columns)
    size = (max(columns * WIDTH, 2 * WIDTH) + 2 * MARGIN, TOP + rows * HEIGHT + MARGIN)
    image = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    pen = Pen(image, MARGIN)
    pen.text(0, 34, TITLE, size=18)
    pen.text(0, 56, _about(contents), LIMIT, 11.5)
    x = 0.0
    for kind in NAMES:
        if any(kind in panel.curves for panel in found):
            pen.line([(x, 76), (x + 18, 76)], COLOURS[kind], 2.2)
            pen.text(x + 24, 80, NAMES[kind])
            x += 24 + pen.width(NAMES[kind]) + 24
    rates = {row["tflops"] for content in contents for row in content.get("limits", [])}
    if any(panel.limit for panel in found):
        pen.line([(x, 76), (x + 18, 76)], LIMIT, 1.2, dashed=True)
        pen.text(x + 24, 80, f"arithmetic limit at {', '.join(f'{rate:g}' for rate in sorted(rates))} TFLOP/s a GPU")
    for number, panel in enumerate(found):
        row, column = divmod(number, columns)
        draw_panel(Pen(image, MARGIN + column * WIDTH, TOP + row * HEIGHT), panel)
    return image


def _about(contents: list[dict]) -> str:
    gpus = set()
    for content in contents:
        if content.get("speeds") or content.get("medians"):
            about = content["about"]
            gpus |= {gpu.split(",")[0] for gpu in about.get("gpus", [])} or {about.get("gpu", "no GPU")}
    return f"{', '.join(sorted(gpus))}; random weights; medians of steps; each panel is of one run"


def runs_of(content: dict) -> list[dict]:
    """Of a file as a benchmark writes it, or of one that holds several of them as its "runs"."""
    return content.get("runs", [content])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("results", type=Path, nargs="+")
    options = parser.parse_args()
    contents = [run for path in options.results for run in runs_of(json.loads(path.read_text()))]
    if not panels(contents):
        print("No case of these results has a time of stock ComfyUI to compare with.", file=sys.stderr)
        return 1
    picture(contents).quantize(COLOURS_KEPT).save(options.out, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
