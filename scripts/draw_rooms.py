"""Writes the drawing of the rooms and the code map of docs/architecture.md, from the source.

    python3 scripts/draw_rooms.py [--check]

What stands between the two markers of the page is replaced. --check writes nothing and ends with 1 where the page is
not what the source says. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator

from import_graph import PACK_ROOT, Graph, Sources, circles, graph_of_rooms

PAGE = PACK_ROOT / "docs" / "architecture.md"
BEGIN = "<!-- Made by `python3 scripts/draw_rooms.py`: from here -->"
END = "<!-- to here -->"
WITH_ROOMS = ("host", "rank", "sharding")


def page_with(section: str, page: str) -> str:
    """`page` with what lies between its markers replaced. Raises ValueError for one without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} lacks its markers: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{after}"


def section(sources: Sources) -> str:
    """The drawings and the code map, in Markdown."""
    graph = graph_of_rooms(sources, sources.imports())
    parts = ["### Layers", _mermaid(_layers(graph))]
    for layer in WITH_ROOMS:
        inside = {
            _name(room): frozenset(_name(other) for other in others if _layer(other) == layer and "/" in other)
            for room, others in graph.items()
            if _layer(room) == layer and "/" in room
        }
        parts += [f"### Rooms of {layer}", _mermaid(inside)]
    return "\n\n".join([*parts, "### Code map", "\n".join(_code_map(sources, graph))])


def _layers(graph: Graph) -> Graph:
    names = sorted({_layer(room) for room in graph} - {"parallel_backend"})
    return {
        name: frozenset(_layer(o) for room, others in graph.items() if _layer(room) == name for o in others) - {name}
        for name in names
    }


def _layer(room: str) -> str:
    return room.partition("/")[0]


def _name(room: str) -> str:
    return room.rpartition("/")[2]


def _mermaid(graph: Graph) -> str:
    lines = ["```mermaid", "graph TD"]
    lines += [f"  {node}" for node in sorted(graph)]
    lines += [f"  {one} {'-.->' if circle else '-->'} {other}" for one, other, circle in _arrows(graph)]
    return "\n".join([*lines, "```"])


def _arrows(graph: Graph) -> Iterator[tuple[str, str, bool]]:
    """(from, to, whether it is part of a circle), without those that a way over a third node says already."""
    group = {node: circle for circle in circles(graph) for node in circle}

    def same(one: str, other: str) -> bool:
        return one == other or (one in group and group.get(one) is group.get(other))

    def leads_to(one: str, other: str, seen: set[str]) -> bool:
        seen.add(one)
        return other in graph[one] or any(leads_to(next_, other, seen) for next_ in graph[one] if next_ not in seen)

    for node, others in sorted(graph.items()):
        for other in sorted(others):
            by_another_way = any(
                leads_to(third, other, set())
                for third in others
                if third != other and not same(third, node) and not same(third, other)
            )
            if same(node, other) or not by_another_way:
                yield node, other, same(node, other)


def _code_map(sources: Sources, graph: Graph) -> Iterable[str]:
    yield "| room | what it is | imports from |"
    yield "| --- | --- | --- |"
    for room in sorted(graph):
        module = room if room in ("nodes", "parallel_backend") else f"parallel_backend.{room.replace('/', '.')}"
        others = ", ".join(f"`{other}`" for other in sorted(graph[room]) if other != "parallel_backend")
        yield f"| `{room}` | {first_sentence(sources, module)} | {others} |"


def first_sentence(sources: Sources, module: str) -> str:
    """The first line of a module's docstring. Raises LookupError for one without it."""
    text = ast.get_docstring(ast.parse(sources.files[module].read_text()))
    if not text:
        raise LookupError(f"{module} has no docstring: say in one sentence what it holds")
    return text.splitlines()[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where the page is out of date")
    check = parser.parse_args().check
    page = PAGE.read_text()
    wanted = page_with(section(Sources.of()), page)
    if not check:
        PAGE.write_text(wanted)
    elif wanted != page:
        print(f"{PAGE.relative_to(PACK_ROOT)} is not what the source says: run python3 scripts/draw_rooms.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
