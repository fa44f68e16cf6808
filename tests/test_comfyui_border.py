"""Everything that the pack uses of ComfyUI beyond its public API is named in one place, and checked."""

import ast
import logging

import comfy.model_patcher
import pytest
from comfy_host import PACK_ROOT
from import_graph import COMFYUI
from xdit_comfyui.nodes import comfyui_check
from xdit_comfyui.parallel_backend.comfyui import self_check
from xdit_comfyui.parallel_backend.comfyui.border import USED, Used
from xdit_comfyui.parallel_backend.doctor import border as doctors
from xdit_comfyui.parallel_backend.rank.weights.rank_patcher import RankModelPatcher

PUBLIC = "comfy_api.latest"
OF_A_MODULE = ("__file__", "__name__", "__path__")


def names_in(path) -> set[str]:
    """Names of ComfyUI with dots, as far as a source file writes them out."""
    tree = ast.parse(path.read_text())
    known, found = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                if first in COMFYUI:
                    known[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module.partition(".")[0] in COMFYUI:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                found.add(f"{node.module}.{alias.name}")

    def whole(node) -> str | None:
        if isinstance(node, ast.Name):
            return known.get(node.id)
        if isinstance(node, ast.Attribute) and (owner := whole(node.value)) is not None:
            return f"{owner}.{node.attr}"
        return None

    parts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in parts and (name := whole(node)) is not None:
            found.add(name)
    return found


@pytest.fixture(scope="module")
def used() -> set[str]:
    sources = [path for folder in ("parallel_backend", "nodes") for path in (PACK_ROOT / folder).rglob("*.py")]
    found = set().union(*map(names_in, sources))
    return {
        name
        for name in found
        if not name.startswith(PUBLIC) and name.rpartition(".")[2] not in OF_A_MODULE and not is_module(name)
    }


def is_module(name: str) -> bool:
    """Or a class of which the table lists a member."""
    if name in {one.name for one in USED}:
        return False
    if any(one.name.startswith(f"{name}.") for one in USED):
        return True
    try:
        return type(self_check._found(name)).__name__ == "module"
    except (ImportError, AttributeError):
        return False


def test_every_name_that_is_used_is_in_the_table(used):
    listed = {one.name for one in USED}
    missing = [name for name in used if not any(f"{name}.".startswith(f"{one}.") for one in listed)]
    assert not missing


def test_every_name_in_the_table_is_used(used):
    sources = [path for path in (PACK_ROOT / "parallel_backend").rglob("*.py") if path.name != "border.py"]
    written = " ".join(path.read_text() for path in sources)
    unused = [
        one.name
        for one in USED
        if not any(name == one.name or name.startswith(f"{one.name}.") for name in used)
        and one.name.rpartition(".")[2] not in written
    ]
    assert not unused


def test_this_comfyui_fits():
    assert not self_check.misfits()
    for patcher in (*comfyui_check.PATCHERS, RankModelPatcher):
        assert not self_check.overrides(patcher, comfy.model_patcher.ModelPatcher)


def test_what_does_not_fit_is_named_with_what_fails():
    names = (
        Used("comfy.model_management.no_such_function", "a test", "nothing"),
        Used("comfy.no_such_module.name", "a test", "nothing"),
        Used("comfy.model_management.free_memory", "a test", "nothing", ("memory_required", "no_such_argument")),
        Used("comfy.model_management.free_memory", "a test", "nothing", ("device",)),
    )
    said = [str(one) for one in self_check.misfits(names)]
    assert [line.partition(";")[0] for line in said] == [
        "comfy.model_management.no_such_function does not exist",
        "comfy.no_such_module.name does not exist",
        "comfy.model_management.free_memory does not take no_such_argument",
    ]
    assert all("a test" in line and "What may fail: nothing" in line for line in said)


def test_a_method_that_comfyui_calls_in_another_way_is_named():
    class Base:
        def load(self, device, memory):
            pass

        def other(self):
            pass

    class Ours(Base):
        def load(self, device):
            pass

        def own(self):
            pass

    (said,) = self_check.overrides(Ours, Base)
    assert "Ours.load" in said and "memory" in said


@pytest.mark.parametrize(
    ("version", "level", "said"),
    [
        ("0.29.3", logging.WARNING, "needs ComfyUI 0.30 or newer, this is 0.29.3"),
        ("0.99.0", logging.INFO, "was tested up to ComfyUI"),
        ("0.30.0", None, None),
    ],
)
def test_another_version_is_told_in_one_line(caplog, version, level, said):
    with caplog.at_level(logging.INFO):
        comfyui_check.tell_about_comfyui(version)
    lines = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert [one for one, _ in lines] == ([level] if level is not None else [])
    assert said is None or said in lines[0][1]


def test_a_misfit_is_told_at_start_and_by_the_doctor(caplog, monkeypatch):
    odd = Used("comfy.samplers.no_such_name", "a test", "the test")
    monkeypatch.setattr(self_check.misfits, "__defaults__", ((odd,),))
    monkeypatch.setattr(doctors, "USED", (odd,))
    comfyui_check.tell_about_comfyui("0.30.0")
    assert ["comfy.samplers.no_such_name does not exist" in record.getMessage() for record in caplog.records] == [True]
    (problem,) = doctors.border_problems()
    assert "comfy.samplers.no_such_name does not exist" in problem.what and "update this pack" in problem.do
