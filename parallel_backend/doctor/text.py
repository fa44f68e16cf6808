"""The report for people: problems first, with what to do; then what is there."""

from __future__ import annotations

import textwrap

from .report import Pair, Report

WIDTH = 110
GIB = 1 << 30
KINDS = {
    "PIX": "one PCIe switch",
    "PXB": "several PCIe switches",
    "PHB": "PCIe through the CPU",
    "NODE": "PCIe through the CPU, two bridges",
    "SYS": "PCIe from one CPU socket to the other",
}


def as_text(report: Report) -> str:
    """Aligned lines of at most WIDTH characters, messages of ranks aside."""
    count = len(report.problems)
    headline = f"xDiT doctor ({report.devices}): {f'{count} problem(s)' if count else 'no problem found'}"
    sections = {
        "Problems": _problems(report),
        "What to use": _table((one.strategy, one.verdict, one.why) for one in report.advice),
        _gpu_title(report): _table(_gpu_rows(report)),
        _link_title(report): _table(_link_rows(report)),
        "Attention kernels": _table(_kernel_rows(report)),
        "Versions": _table(_version_rows(report)),
        "Environment": _table(report.environment.items()),
    }
    parts = [headline]
    for title, lines in sections.items():
        if lines:
            parts.append("\n".join([title, *(f"  {line}" for line in lines)]))
    return "\n\n".join(parts)


def link_kind(pair: Pair) -> str:
    """The kind of a connection in words."""
    if pair.kind is None:
        return "unknown"
    if pair.kind.startswith("NV"):
        return f"NVLink ({pair.kind})"
    return f"{KINDS.get(pair.kind, 'other')} ({pair.kind})"


def _problems(report: Report) -> list[str]:
    lines = []
    for problem in report.problems:
        first, *rest = problem.what.splitlines()
        lines += [*_wrapped("! ", first), *(f"    {line}" for line in rest), *_wrapped("  → ", problem.do)]
    return lines


def _gpu_title(report: Report) -> str:
    return f"GPUs (driver {report.driver})" if report.driver else "GPUs"


def _gpu_rows(report: Report) -> list[tuple[str, ...]]:
    if not report.gpus:
        return [("none that torch can use",)]
    return [
        (
            str(gpu.index),
            gpu.name,
            f"capability {gpu.capability}",
            f"{gpu.memory_total / GIB:.1f} GiB",
            "free unknown" if gpu.memory_free is None else f"{gpu.memory_free / GIB:.1f} GiB free",
        )
        for gpu in report.gpus
    ]


def _link_title(report: Report) -> str:
    if report.measured and report.all_to_all:
        return f"Links (measured in {report.seconds:.0f} s, start of the ranks included; GB/s each way)"
    return "Links (not measured)"


def _link_rows(report: Report) -> list[tuple[str, ...]]:
    rows = [
        (
            f"{pair.devices[0]} – {pair.devices[1]}",
            *(() if pair.peer_access is None else (link_kind(pair), _access(pair.peer_access))),
            *_speed(pair.bandwidth, pair.latency),
        )
        for pair in report.pairs
    ]
    if report.all_to_all and len(report.all_to_all.devices) > 2:
        blank = ("",) * (len(rows[0]) - 3)
        rows.append(("all at once", *blank, *_speed(report.all_to_all.bandwidth, report.all_to_all.latency)))
    return rows


def _access(peer: bool) -> str:
    return "peer access" if peer else "no peer access"


def _speed(bandwidth: float | None, latency: float | None) -> tuple[str, ...]:
    if bandwidth is None or latency is None:
        return ()
    return (f"{bandwidth / 1e9:.1f} GB/s", f"{latency * 1e6:.0f} µs")


def _kernel_rows(report: Report) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kernel in report.kernels:
        if kernel.works is False:
            fault, _, why = (kernel.fault or "does not work").partition(": ")
            rows.append((kernel.name, fault, why))
        else:
            rows.append((kernel.name, "works" if kernel.works else "not tried", f"used: {kernel.used}"))
    return rows


def _version_rows(report: Report) -> list[tuple[str, ...]]:
    judged = {True: "ok", False: "DOES NOT FIT", None: ""}
    return [
        (row.name, row.found or "none", f"{row.source} wants {row.wanted}" if row.wanted else "", judged[row.fits])
        for row in report.versions
    ]


def _table(rows) -> list[str]:
    """Columns aligned; the last one is wrapped."""
    rows = [tuple(map(str, row)) for row in rows]
    widths = [
        max((len(row[at]) for row in rows if at < len(row) - 1), default=0)
        for at in range(max(map(len, rows), default=0))
    ]
    lines = []
    for row in rows:
        head = "".join(f"{cell:<{width}}  " for cell, width in zip(row[:-1], widths, strict=False))
        lines += _wrapped(head, row[-1])
    return lines


def _wrapped(head: str, text: str) -> list[str]:
    width = max(WIDTH - len(head), 40)
    first, *rest = textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False) or [""]
    return [(head + first).rstrip(), *(" " * len(head) + line for line in rest)]
