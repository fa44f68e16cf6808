"""Which module of the pack imports which, read from the source: nothing is imported to find out.

Imports inside functions and below `if TYPE_CHECKING` count as any other: they are what a reader has to follow.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PACK_ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("nodes", "parallel_backend")
BACKEND = "parallel_backend."

COMFYUI = frozenset(
    "comfy comfy_api comfy_execution comfy_extras comfyui_version folder_paths latent_preview nodes server".split()
)
"""First names of ComfyUI's modules that the pack may import."""

Graph = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Sources:
    """The pack's modules: dotted name below the pack's folder → file."""

    files: Mapping[str, Path]

    @staticmethod
    def of(root: Path = PACK_ROOT) -> Sources:
        found = (file for folder in FOLDERS for file in sorted((root / folder).rglob("*.py")))
        return Sources({_module_name(file.relative_to(root)): file for file in found})

    def imports(self) -> Graph:
        """Module → the pack's modules that it imports. A package's `__init__` counts only where a name of its own is
        imported: that importing `a.b` runs `a` first binds nobody to what stands in `a`.
        """
        return {module: frozenset(self._imported(module)) - {module} for module in self.files}

    def _imported(self, module: str) -> Iterable[str]:
        file = self.files[module]
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            if isinstance(node, ast.ImportFrom) and node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
                for alias in node.names:
                    name = f"{base}.{alias.name}"
                    yield name if name in self.files else self._known(base, file, node.lineno)

    def _known(self, module: str, file: Path, line: int) -> str:
        if module not in self.files:
            raise LookupError(f"{file}:{line} imports {module}, which is no module of this pack")
        return module


def packages(file: Path) -> set[str]:
    """First names of what a file imports absolutely: the standard library, other people's packages, ComfyUI."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def room_of(module: str, packages: Collection[str]) -> str:
    """The folder that a module lies in, as "host/run", "contract", "nodes"."""
    package = module if module in packages else module.rpartition(".")[0]
    return package.removeprefix(BACKEND).replace(".", "/")


def graph_of_rooms(sources: Sources, imports: Graph) -> Graph:
    """Room → the rooms that its modules import from. `imports`: of modules."""
    packages = {name for name, file in sources.files.items() if file.name == "__init__.py"}
    graph = defaultdict(set)
    for module, imported in imports.items():
        room = room_of(module, packages)
        graph[room] |= {room_of(other, packages) for other in imported} - {room}
    return {room: frozenset(others) for room, others in graph.items()}


def circles(graph: Graph) -> set[frozenset[str]]:
    """The groups of nodes that can reach each other (strongly connected components of more than one node)."""
    reach = {node: _reachable(graph, node) for node in graph}
    groups = {frozenset({other for other in reach[node] if node in reach[other]}) for node in graph}
    return {group for group in groups if len(group) > 1}


def _reachable(graph: Graph, start: str) -> set[str]:
    seen, left = set(), [start]
    while left:
        for other in graph.get(left.pop(), ()):
            if other not in seen:
                seen.add(other)
                left.append(other)
    return seen


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
