"""What installing the pack does: the two requirement lists agree, and ComfyUI's own packages stay as they are."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from comfy_host import PACK_ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOT_TO_BE_CHANGED = {"torch", "torchvision", "torchaudio", "numpy", "transformers"}


def lines(path: Path) -> list[str]:
    stripped = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in stripped if line]


@pytest.fixture(scope="module")
def project(host):
    """pyproject.toml as ComfyUI's own parser reads it."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from comfy_config.config_parser import extract_node_configuration\n"
        "print(extract_node_configuration(sys.argv[2]).model_dump_json())"
    )
    command = [sys.executable, "-c", script, str(host.tree), str(PACK_ROOT)]
    return json.loads(subprocess.check_output(command, timeout=60))


def test_requirements_txt_holds_the_dependencies_of_pyproject(project):
    assert lines(PACK_ROOT / "requirements.txt") == project["project"]["dependencies"]


def test_runtime_dependencies_have_lower_bounds_only(project):
    for line in project["project"]["dependencies"]:
        assert [spec.operator for spec in Requirement(line).specifier] == [">="], line


def test_comfyui_reads_the_registry_section(project):
    assert project["tool_comfy"]["publisher_id"] == "xdit-comfyui"
    assert project["tool_comfy"]["display_name"] == "xDiT for ComfyUI"
    assert project["project"]["supported_comfyui_version"] == ">=0.30"
    assert project["project"]["license"]["text"] == "Apache-2.0"
    assert project["project"]["supported_os"] == ["POSIX :: Linux"]


def test_installing_leaves_comfyuis_packages_alone(host, tmp_path):
    """pip's own plan for `pip install -r requirements.txt` in an environment that has what ComfyUI needs, no more."""
    python = environment_with_metadata_of(installed_for_comfyui(host.tree), tmp_path / "env")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--dry-run", "--quiet", "--report", "-"]
    planned = subprocess.run(
        [*command, "-r", PACK_ROOT / "requirements.txt"], capture_output=True, text=True, timeout=240, check=True
    )
    names = {canonicalize_name(item["metadata"]["name"]) for item in json.loads(planned.stdout)["install"]}
    assert "xfuser" in names
    assert not names & NOT_TO_BE_CHANGED


def installed_for_comfyui(tree: Path) -> dict[str, Path]:
    """ComfyUI's requirements and all that they require: name → its dist-info folder in this environment."""
    found: dict[str, Path] = {}
    wanted = [Requirement(line) for line in lines(tree / "requirements.txt")]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # required on other systems only
        found[name] = Path(package._path)
        for line in package.requires or ():
            required = Requirement(line)
            if required.marker is None or any(
                required.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)
            ):
                wanted.append(required)
    return found


def environment_with_metadata_of(packages: dict[str, Path], home: Path) -> Path:
    """A virtual environment in which pip sees `packages` as installed; gives its python."""
    subprocess.check_call([sys.executable, "-m", "venv", "--without-pip", home])
    site_packages = next(home.glob("lib/python3*/site-packages"))
    for info in packages.values():
        (site_packages / info.name).symlink_to(info)
    return home / "bin" / "python"
