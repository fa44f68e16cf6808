"""Versions: what is there, and what this pack, xfuser, torch and ComfyUI each ask for."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable

import folder_paths
import torch
from comfyui_version import __version__ as comfyui_version
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from ..host.launch.rank_launch import PACK_ROOT
from . import report
from .report import Problem

PACK = "this pack"


def versions() -> list[report.Version]:
    """python, ComfyUI, this pack's requirements, and what those bring along: CUDA, NCCL, yunchang, comfy-kitchen."""
    project = (PACK_ROOT / "pyproject.toml").read_text()
    rows = [
        _row("python", platform.python_version(), _setting(project, "requires-python"), PACK),
        _row("ComfyUI", comfyui_version, _setting(project, "requires-comfyui"), PACK),
    ]
    for requirement in _requirements((PACK_ROOT / "requirements.txt").read_text()):
        rows.append(_row(requirement.name, installed(requirement.name), str(requirement.specifier), PACK))
        if requirement.name == "torch":
            rows.append(report.Version("CUDA of torch", torch.version.cuda, None, "torch", None))
            rows += _required_by("torch", lambda name: name.startswith("nvidia-nccl-"))
        if requirement.name == "xfuser":
            rows += _required_by("xfuser", lambda name: name == "yunchang")
    return [*rows, *_required_by_comfyui("comfy-kitchen")]


def misfits(rows: list[report.Version]) -> list[Problem]:
    """A problem for each version that does not fit."""
    return [
        Problem(
            f"{row.name} {row.found} is installed; {row.source} needs {row.wanted}"
            if row.found
            else f"{row.name} is not installed; {row.source} needs {row.wanted or 'it'}",
            _remedy(row),
        )
        for row in rows
        if row.fits is False
    ]


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _row(name: str, found: str | None, wanted: str, source: str) -> report.Version:
    return report.Version(name, found, wanted or None, source, _fits(found, wanted))


def _fits(found: str | None, wanted: str) -> bool | None:
    """Whether a version is one of `wanted`; None for a version that says nothing, such as a build from source."""
    if found is None:
        return False
    try:
        return SpecifierSet(wanted).contains(Version(found), prereleases=True)
    except InvalidVersion:
        return None


def _setting(project: str, name: str) -> str:
    """A one-line string of pyproject.toml, which Python 3.10 has no parser for."""
    line = re.search(rf'^{name} = "(.*)"$', project, re.MULTILINE)
    assert line is not None, f"pyproject.toml has no line for {name}"
    return line[1]


def _required_by(package: str, wanted: Callable[[str], bool]) -> list[report.Version]:
    """What an installed package itself asks for, of those that `wanted` picks by name."""
    if installed(package) is None:
        return []
    found = []
    for line in importlib.metadata.requires(package) or ():
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if wanted(name) and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.append(_row(name, installed(name), str(requirement.specifier), package))
    return found


def _required_by_comfyui(package: str) -> list[report.Version]:
    path = os.path.join(os.path.dirname(os.path.abspath(folder_paths.__file__)), "requirements.txt")
    with open(path) as file:
        asked = [requirement for requirement in _requirements(file.read()) if requirement.name == package]
    return [_row(package, installed(package), str(requirement.specifier), "ComfyUI") for requirement in asked]


def _requirements(text: str) -> list[Requirement]:
    """The packages of a requirements file; options of pip in it are none."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def _remedy(row: report.Version) -> str:
    if row.name in ("python", "ComfyUI"):
        return f"update {row.name}"
    if row.source == PACK:
        return f"{sys.executable} -m pip install -r {PACK_ROOT / 'requirements.txt'}"
    return f'{sys.executable} -m pip install "{row.name}{row.wanted or ""}"'
