"""What the pages say is what the code does."""

import re
from types import SimpleNamespace
from typing import get_args

import tomllib
from comfy_host import PACK_ROOT
from xdit_comfyui.parallel_backend.contract.config import Degrees, ParallelConfig
from xdit_comfyui.parallel_backend.doctor.advice import advice
from xdit_comfyui.parallel_backend.host.base.devices import DeviceSet
from xdit_comfyui.parallel_backend.host.strategy.choose import Workload, choose
from xdit_comfyui.parallel_backend.host.strategy.link_speed import Links
from xdit_comfyui.parallel_backend.sharding.plan.argument_kinds import Argument
from xdit_comfyui.parallel_backend.sharding.plans import PLANS
from xdit_comfyui.parallel_backend.sharding.plans.flux import FLUX

README = (PACK_ROOT / "README.md").read_text()
DIVIDING = (PACK_ROOT / "docs" / "dividing.md").read_text()
OPERATION = (PACK_ROOT / "docs" / "operation.md").read_text()
TWO_GPUS = DeviceSet("cuda", (0, 1))


def flux(**more) -> Workload:
    return Workload("Flux", FLUX, 24, 1, (1, 16, 128, 128), **more)


def test_the_sampler_page_shows_a_line_as_the_console_does():
    page = (PACK_ROOT / "web" / "docs" / "XDiTSampler.md").read_text()
    (example,) = re.findall(r"^\*(xDiT: .* on GPU 0,1)\*$", page, re.MULTILINE)
    assert example == f"xDiT: {choose(ParallelConfig(), 2, flux())} on {TWO_GPUS}"


def test_every_variable_that_the_code_reads_is_explained():
    sources = [*(PACK_ROOT / "parallel_backend").rglob("*.py"), *(PACK_ROOT / "nodes").rglob("*.py")]
    read = {name for file in sources for name in re.findall(r'"(XDIT_[A-Z_]+)"', file.read_text())}
    read.discard("XDIT_PARALLEL_CONFIG")  # the type of a node's input
    assert "XDIT_SYMMETRIC_MEMORY" in read
    assert not [name for name in read if f"`{name}" not in OPERATION]


def test_the_page_on_degrees_and_the_doctor_say_the_same_of_a_ring_of_two():
    (row,) = [line for line in DIVIDING.splitlines() if line.startswith("| `ring` |")]
    (advised,) = [
        one.why
        for one in advice(TWO_GPUS, SimpleNamespace(pairs=[], kernels=[]), Links({}, SimpleNamespace(bandwidth=200e9)))
        if one.strategy == "ring"
    ]
    of_two = {plan.model.rpartition(".")[2] for plan in PLANS.values() if plan.ring_of_two}
    assert of_two == {"Flux", "Chroma", "ChromaRadiance"} and "Chroma" in row
    for text in (row, advised):
        assert "fastest" in text and "Flux" in text and "xDiT Benchmark" in text
    assert choose(ParallelConfig(), 2, flux(ring_of_two=True)).degrees == Degrees(ring=2)


def test_every_argument_kind_is_in_the_table_for_authors_of_plans():
    table = (PACK_ROOT / "CONTRIBUTING.md").read_text()
    kinds = {kind for top in get_args(Argument) for kind in (top, *top.__subclasses__())}
    assert {"Tokens", "Rows", "WholeGrid", "Positions"} < {kind.__name__ for kind in kinds}
    assert not [kind.__name__ for kind in kinds if f"| `{kind.__name__}(" not in table]


def test_the_versions_asked_for_are_the_same_everywhere():
    project = tomllib.loads((PACK_ROOT / "pyproject.toml").read_text())["project"]
    asked = next(line for line in project["dependencies"] if line.startswith("torch"))
    assert asked in (PACK_ROOT / "requirements.txt").read_text().split()
    assert f"PyTorch {asked.partition('>=')[2]}, Python {project['requires-python'].removeprefix('>=')}" in README
