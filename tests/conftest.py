"""Fixtures: one real ComfyUI server for the whole session, a client, and tiny models for it."""

import os
import sys
from pathlib import Path

import pytest
from comfy_host import PACK_ROOT, Host, SetupError
from comfy_host.cache import cache_dir
from comfy_host.instance import ComfyInstance, make_base_directory
from comfy_host.tree import find_tree, unpacked_tree
from support import console as consoles
from support.comfy import import_comfy
from support.comfy_client import ComfyClient
from support.pack import register_pack
from support.scheduling import SharedFixtures, by_ranks, one_kind_each
from support.tiny_models import ModelShelf

TEST_PACKS = {
    "xdit-test-nodes": PACK_ROOT / "tests" / "support" / "host_nodes",
    "xdit-test-ladder": PACK_ROOT / "tests" / "support" / "ladder_nodes",
    "xdit-test-bad": PACK_ROOT / "tests" / "support" / "bad_nodes",
    "xdit-test-foreign": PACK_ROOT / "tests" / "support" / "foreign_nodes",
    "xdit-test-plans": PACK_ROOT / "tests" / "support" / "plan_nodes",
    "xdit-test-graphs": PACK_ROOT / "tests" / "support" / "graph_nodes",
}


def host_under_test() -> Host:
    """The ComfyUI that scripts/test.py chose, run by the python that runs the tests."""
    try:
        tree = find_tree() or unpacked_tree(cache_dir())
    except SetupError as error:
        pytest.exit(f"No ComfyUI to test with: {error}", returncode=1)
    return Host(tree, Path(sys.executable))


HOST = host_under_test()
import_comfy(HOST.tree)
register_pack()


@pytest.fixture(scope="session")
def host() -> Host:
    """The ComfyUI tree under test and the python that runs it."""
    return HOST


@pytest.fixture(scope="session")
def comfy(host, tmp_path_factory):
    """One running ComfyUI, shared by all tests: CPU, fp32, live previews, the pack and the test nodes loaded."""
    base = make_base_directory(tmp_path_factory.mktemp("comfyui"), TEST_PACKS)
    flags = ["--cpu", "--force-fp32", "--preview-method", "latent2rgb"]
    # One thread: tiny models gain nothing from more, and lose much where other processes use the cores.
    environment = {"OMP_NUM_THREADS": "1", "XDIT_CACHE": str(base / "cache")}
    with ComfyInstance(host, base, flags, environment) as instance:
        consoles.watch(instance)
        yield instance


@pytest.fixture(autouse=True)
def no_traceback_that_nobody_expects():
    """On the console of any ComfyUI that a fixture started; see support.console."""
    yield
    assert not (said := consoles.unexpected()), said


@pytest.fixture
def console(comfy) -> consoles.Console:
    """The shared server's: announce here what it is to print with a traceback, beside the errors of prompts."""
    return consoles.watch(comfy)


@pytest.fixture
def client(comfy):
    """A websocket session of its own with the shared server."""
    with ComfyClient(comfy.url, comfy.base / "output") as session:
        yield session


@pytest.fixture(scope="session")
def models(comfy) -> ModelShelf:
    """Tiny models in the shared server's models folder: models.flux() gives the name that a loader node takes."""
    return ModelShelf(comfy.base / "models")


@pytest.fixture
def start_comfy(host, tmp_path_factory):
    """Starts a further ComfyUI of the test's own: start_comfy("--flag", …, NAME="value") → ComfyInstance.

    `python_flags`: of its interpreter.
    """
    started = []

    def start(
        *flags: str, packs: dict[str, Path] | None = None, python_flags: tuple[str, ...] = (), **environment: str
    ) -> ComfyInstance:
        base = make_base_directory(tmp_path_factory.mktemp("own-comfyui"), {**TEST_PACKS, **(packs or {})})
        instance = ComfyInstance(host, base, flags or ("--cpu", "--force-fp32"), environment, python_flags)
        started.append(instance)
        consoles.watch(instance)
        instance.start()
        return instance

    yield start
    left = [line for instance in started for line in instance.stop()]
    assert not left, f"processes left behind: {left}"


def pytest_collection_modifyitems(items):
    by_ranks(items)
    one_kind_each(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return SharedFixtures(config, log)


def pytest_report_header(config) -> str:
    return f"ComfyUI: {HOST.tree}, {os.cpu_count()} cores"
