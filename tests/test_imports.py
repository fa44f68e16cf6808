"""Imports run one way, and in no circle; read from the source, so neither torch nor ComfyUI is needed:

pytest --noconftest tests/test_imports.py
"""

from collections import Counter

import draw_rooms
import pytest
from import_graph import BACKEND, COMFYUI, PACK_ROOT, Sources, circles, graph_of_rooms, packages

SOURCES = Sources.of()
IMPORTS = SOURCES.imports()

# Which layers a layer may import from. Inside a layer there is no circle between rooms.
LAYERS = {
    "nodes": {"doctor", "host", "contract", "loading", "comfyui"},
    "doctor": {"host", "contract", "comfyui"},
    "describe_model": {"contract", "sharding", "loading"},
    "host": {"contract", "sharding", "loading", "foreign", "comfyui", "transport", "system"},
    "rank": {"compiled", "contract", "sharding", "loading", "foreign", "comfyui", "transport", "system"},
    "compiled": {"sharding"},
    "sharding": {"contract", "system"},
    "loading": {"contract", "system"},
    "contract": {"transport", "system"},
    "transport": {"system"},
    "foreign": set(),
    "comfyui": set(),
    "system": set(),
}

# Other people's packages that one place only knows: what it costs to import them, or to lose them, ends there.
ONLY_IN = {
    "xfuser": {"sharding.attention.xfuser_adapter"},
    "yunchang": {"sharding.attention.xfuser_adapter"},
    "cloudpickle": {"transport.pickling", "transport.returned"},
    "server": {"nodes.metrics", "nodes.status"},  # ComfyUI's web server, which no rank has
    "aiohttp": {"nodes.metrics", "nodes.status"},
}

# Rooms that import nothing of ComfyUI: they can be read, tested and timed without it.
WITHOUT_COMFYUI = {
    "contract",
    "transport",
    "system",
    *(f"sharding.{room}" for room in ("attention", "engine", "exchange", "plan", "plans", "transfer")),
}

MOST_FILES = 12  # in a room; plans are a list, one file for each family of models


def short(module: str) -> str:
    return module.removeprefix(BACKEND)


def layer_of(module: str) -> str:
    return short(module).partition(".")[0]


def as_lines(groups) -> list[str]:
    return sorted(", ".join(sorted(short(member) for member in group)) for group in groups)


def test_layers_import_one_way():
    crossing = {
        f"{short(one)} imports {short(other)}"
        for one, others in IMPORTS.items()
        for other in others
        if layer_of(other) != layer_of(one) and layer_of(other) not in LAYERS[layer_of(one)]
    }
    assert not crossing


def test_the_table_of_layers_allows_no_more_than_is_used():
    used = {(layer_of(one), layer_of(other)) for one, others in IMPORTS.items() for other in others}
    assert {(one, other) for one, others in LAYERS.items() for other in others} <= used
    assert not circles({one: frozenset(others) for one, others in LAYERS.items()})


def test_no_circle_between_modules():
    assert as_lines(circles(IMPORTS)) == []


def test_no_circle_between_rooms():
    assert as_lines(circles(graph_of_rooms(SOURCES, IMPORTS))) == []


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_is_known_in_one_place(package):
    using = {short(module) for module, file in SOURCES.files.items() if package in packages(file)}
    assert using == ONLY_IN[package]


@pytest.mark.parametrize("room", sorted(WITHOUT_COMFYUI))
def test_a_room_knows_nothing_of_comfyui(room):
    members = {module: file for module, file in SOURCES.files.items() if f"{short(module)}.".startswith(f"{room}.")}
    assert members
    assert not {short(module) for module, file in members.items() if packages(file) & COMFYUI}


def test_rooms_are_small():
    files = Counter(file.parent for file in SOURCES.files.values() if file.name != "__init__.py")
    large = {str(folder.relative_to(PACK_ROOT)) for folder, count in files.items() if count > MOST_FILES}
    assert large == {"parallel_backend/sharding/plans"}


def test_the_drawing_is_what_the_source_says():
    page = draw_rooms.PAGE.read_text()
    drawn = draw_rooms.page_with(draw_rooms.section(SOURCES), page)
    assert drawn == page, "docs/architecture.md is out of date: run python3 scripts/draw_rooms.py"


# The reader itself, on sources made for it.


@pytest.fixture
def pack(tmp_path):
    def write(**files: str) -> Sources:
        for name, text in files.items():
            file = tmp_path / "parallel_backend" / f"{name.replace('__in__', '/')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        for folder in {file.parent for file in (tmp_path / "parallel_backend").rglob("*.py")}:
            (folder / "__init__.py").touch()
        return Sources.of(tmp_path)

    return write


def test_imports_in_functions_and_for_types_count(pack):
    sources = pack(
        a__in__one="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..b.two import Two\n",
        b__in__two="def late():\n    from ..a import one\n",
    )
    imports = sources.imports()
    assert imports["parallel_backend.a.one"] == {"parallel_backend.b.two"}
    assert imports["parallel_backend.b.two"] == {"parallel_backend.a.one"}
    assert as_lines(circles(imports)) == ["a.one, b.two"]
    assert as_lines(circles(graph_of_rooms(sources, imports))) == ["a, b"]


def test_rooms_may_form_a_circle_where_modules_form_none(pack):
    sources = pack(a__in__one="from ..b import two\n", b__in__two="", b__in__three="from ..a import one\n")
    assert not circles(sources.imports())
    assert as_lines(circles(graph_of_rooms(sources, sources.imports()))) == ["a, b"]


def test_a_relative_import_of_nothing_is_told(pack):
    with pytest.raises(LookupError, match="parallel_backend.b, which is no module"):
        pack(a__in__one="from ..b import two\n").imports()
