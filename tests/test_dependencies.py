"""What is imported is named in pyproject.toml, and what is named is imported; read from the source:

pytest --noconftest tests/test_dependencies.py
"""

import re
import sys
from importlib.metadata import requires

import pytest
from import_graph import COMFYUI, PACK_ROOT, packages
from packaging.requirements import Requirement

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
    files = list((PACK_ROOT / folder).rglob("*.py"))
    ours = {part.removesuffix(".py") for file in files for part in file.relative_to(PACK_ROOT).parts}
    ours |= {"support", "models", "comfy_host", "xdit_comfyui"}
    found = {}
    for file in files:
        for name in packages(file) - ours - COMFYUI - sys.stdlib_module_names:
            found.setdefault(DISTRIBUTIONS.get(name, name), str(file.relative_to(PACK_ROOT)))
    return found


def declared() -> dict[str, set[str]]:
    """Extra ("" for none) → names of its packages."""
    project = (PACK_ROOT / "pyproject.toml").read_text()
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    lists = {"": re.search(r"^dependencies = \[(.*?)^\]", project, re.M | re.S)[1]}
    lists |= dict(re.findall(r"^(\w+) = \[(.*?)\]$", extras, re.M | re.S))
    return {name: {Requirement(line).name for line in re.findall(r'"(.*?)"', text)} for name, text in lists.items()}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_import_is_named(folder):
    lists = declared()
    named = lists[""].union(*(lists[extra] for extra in FOLDERS[folder])) | TRIED
    named |= {name for name, bringer in BROUGHT.items() if bringer in lists[""]}
    unnamed = {name: file for name, file in imports(folder).items() if name not in named}
    assert not unnamed, "name these in pyproject.toml and requirements.txt"


def test_every_named_package_is_imported():
    lists = declared()
    used = set().union(*(imports(folder) for folder in FOLDERS))
    product = set(imports("parallel_backend")) | set(imports("nodes"))
    assert lists[""] <= product
    for extra in lists.keys() - {"", *USED_BY_NAME}:
        assert lists[extra] <= used, extra


def test_what_a_dependency_brings_is_brought_by_it():
    for name, bringer in BROUGHT.items():
        assert name in {Requirement(line).name for line in requires(bringer) or ()}
    assert set(BROUGHT) | TRIED <= set().union(*(imports(folder) for folder in FOLDERS))
