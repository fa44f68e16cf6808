"""A virtual environment of our own for a ComfyUI tree. A user's ComfyUI environment is never changed."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .cache import SetupError, run_logged, say
from .pins import TORCH

STATE = "xdit-setup.json"
PIP_INSTALL = ("-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check")


def ensure_environment(cache: Path, tree: Path, pack_root: Path) -> Path:
    """Make, complete or reuse the environment for `tree`; gives its python.

    One environment for each python version, torch pin and ComfyUI requirements. Each stage is noted with a digest of
    what went into it and is done again when that changes. A stage that was cut off may have left half a package, so the
    environment is then made anew.
    """
    comfy_requirements = tree / "requirements.txt"
    key = digest(sys.version.split()[0], *TORCH, comfy_requirements.read_text())
    home = cache / f"env-{key}"
    python = home / "bin" / "python"
    log = cache / f"env-{key}.log"
    state = SetupState(home / STATE)
    if state.interrupted:
        say(f"an earlier set-up was cut off while at '{state.interrupted}'; starting again")
        shutil.rmtree(home)

    def install(*requirements: str | Path) -> Callable[[], None]:
        return lambda: run_logged([python, *PIP_INSTALL, *requirements], log)

    def make_venv() -> None:
        run_logged([sys.executable, "-m", "venv", home], log)

    state.stage("python environment", "", make_venv)
    state.stage("torch", "", install(*TORCH))
    state.stage("ComfyUI requirements", "", install(*TORCH, "-r", comfy_requirements))
    pack_requirements = pack_root / "requirements.txt"
    extras = test_requirements(python, pack_root / "pyproject.toml")
    pack_digest = digest(pack_requirements.read_text(), *extras)
    state.stage("pack requirements", pack_digest, install(*TORCH, "-r", pack_requirements, *extras))
    return python


class SetupState:
    """The stages that an environment has behind it, kept in a file inside it.

    A stage is written down as running before it starts. If it fails in an orderly way the mark is taken back, so the
    next run goes on from there; if the process is killed the mark stays.
    """

    def __init__(self, file: Path):
        self.file = file

    @property
    def interrupted(self) -> str | None:
        return self._read().get("running")

    def stage(self, name: str, inputs: str, work: Callable[[], None]) -> None:
        """Do `work` unless the stage was done with the same inputs; say so in one line."""
        done = self._read().get("done", {})
        if done.get(name) == inputs:
            return
        say(f"{name} ...")
        self._write(done, running=name)
        try:
            work()
        except SetupError:
            self._write(done)
            raise
        self._write({**done, name: inputs})

    def _read(self) -> dict:
        return json.loads(self.file.read_text()) if self.file.is_file() else {}

    def _write(self, done: dict, running: str | None = None) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps({"done": done, "running": running}))
        partial.replace(self.file)


def test_requirements(python: Path, pyproject: Path) -> list[str]:
    """The `test` extra of pyproject.toml. Read by the environment's python: 3.10 has a TOML parser only inside pip."""
    script = (
        "import json, sys\n"
        "try:\n    import tomllib\n"
        "except ModuleNotFoundError:\n    from pip._vendor import tomli as tomllib\n"
        "project = tomllib.load(open(sys.argv[1], 'rb'))['project']\n"
        "print(json.dumps(project['optional-dependencies']['test']))"
    )
    return json.loads(subprocess.check_output([python, "-c", script, pyproject], stdin=subprocess.DEVNULL))


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
