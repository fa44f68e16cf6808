"""What is imported is named in pyproject.toml, and what is named is imported; read from the source:

pytest --noconftest tests/test_dependencies.py
"""

import ast
import re
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
COMFYUI = set(
    "comfy comfy_api comfy_execution comfy_extras comfyui_version folder_paths latent_preview nodes server".split()
)
# Import name → distribution, where they differ.
DISTRIBUTIONS = {"PIL": "pillow", "prometheus_client": "prometheus-client"}
# Brought by a dependency that is named, of a version that fits it.
BROUGHT = {"triton": "torch", "yunchang": "xfuser"}
# Attention kernels of other packages, tried where they are installed.
TRIED = {"flash_attn", "sageattention", "xformers"}
FOLDERS = {  # folder → extras that it may use
    "parallel_backend": {"metrics"},
    "nodes": {"metrics"},
    "benchmarks": {"metrics", "bench"},
    "scripts": {"pages"},
}
USED_BY_NAME = {"flash3", "test"}  # extras whose packages are started or chosen by name


def imports(folder: str) -> dict[str, str]:
    """Top-level name of another package's module → a file that imports it."""
    files = list((ROOT / folder).rglob("*.py"))
    ours = {part.removesuffix(".py") for file in files for part in file.relative_to(ROOT).parts}
    ours |= {"support", "models", "comfy_host", "xdit_comfyui"}
    found = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top not in COMFYUI and top not in ours:
                    found.setdefault(DISTRIBUTIONS.get(top, top), str(file.relative_to(ROOT)))
    return found


def declared() -> dict[str, set[str]]:
    """Extra ("" for none) → names of its packages."""
    project = (ROOT / "pyproject.toml").read_text()
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    lists = {"": re.search(r"^dependencies = \[(.*?)^\]", project, re.M | re.S)[1]}
    lists |= dict(re.findall(r"^(\w+) = \[(.*?)\]$", extras, re.M | re.S))
    return {name: {Requirement(line).name for line in re.findall(r'"(.*?)"', text)} for name, text in lists.items()}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_import_is_named(folder):
    packages = declared()
    named = packages[""].union(*(packages[extra] for extra in FOLDERS[folder])) | TRIED
    named |= {name for name, bringer in BROUGHT.items() if bringer in packages[""]}
    unnamed = {name: file for name, file in imports(folder).items() if name not in named}
    assert not unnamed, "name these in pyproject.toml and requirements.txt"


def test_every_named_package_is_imported():
    packages = declared()
    used = set().union(*(imports(folder) for folder in FOLDERS))
    product = set(imports("parallel_backend")) | set(imports("nodes"))
    assert packages[""] <= product
    for extra in packages.keys() - {"", *USED_BY_NAME}:
        assert packages[extra] <= used, extra


def test_what_a_dependency_brings_is_brought_by_it():
    for name, bringer in BROUGHT.items():
        assert name in {Requirement(line).name for line in requires(bringer) or ()}
    assert set(BROUGHT) | TRIED <= set().union(*(imports(folder) for folder in FOLDERS))
