"""comfy-import-guard, which reads source only, finds every name and call of ComfyUI in this pack in this ComfyUI."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from comfy_host import PACK_ROOT

OF_EVERY_MODULE = {"__file__", "__name__", "__path__"}  # it looks for assignments, and nobody assigns these


@pytest.fixture
def checked(host, tmp_path):
    """Each pack: what would break. The tool reads ComfyUI out of git, so the tree under test is committed to one."""
    clone = tmp_path / "cache" / "ComfyUI"
    for file in host.tree.rglob("*.py"):
        copy = clone / file.relative_to(host.tree)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    for command in (("init",), ("add", "--all"), ("commit", "--message", "the tree under test")):
        author = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
        subprocess.run(["git", *author, *command], cwd=clone, check=True, stdout=subprocess.DEVNULL)
    packs = tmp_path / "home" / "custom_nodes"
    for folder in ("nodes", "parallel_backend"):
        shutil.copytree(PACK_ROOT / folder, packs / "xdit-comfyui" / folder)
    shutil.copy(PACK_ROOT / "__init__.py", packs / "xdit-comfyui")
    (packs / "broken").mkdir()
    (packs / "broken" / "__init__.py").write_text(
        "from comfy.samplers import not_there\nimport comfy.sample\ncomfy.sample.fix_empty_latent_channels(wrong=1)\n"
    )
    tool = (Path(sys.executable).parent / "comfy-import-guard", "--offline", "--json", "--cache-dir", clone.parent)
    check = ("check", "--comfy-dir", packs.parent, "--target", "HEAD", "--no-update")
    done = subprocess.run([*tool, *check], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1, done.stderr  # of the broken one
    return {pack["pack"]: pack for pack in json.loads(done.stdout)["packs"]}


def test_nothing_of_comfyui_that_is_used_is_missing(checked):
    assert len(checked["broken"]["breaking"]) == 2
    pack = checked["xdit-comfyui"]
    assert pack["python_files"] > 200 and pack["references"] > 100
    assert [found for found in pack["breaking"] if found["symbol"] not in OF_EVERY_MODULE] == []
    assert pack["signature_drift"] == [] and pack["unparseable"] == []
