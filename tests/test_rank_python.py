"""Ranks run with the flags of ComfyUI's interpreter, whatever these are."""

import json
import subprocess
import sys

import pytest
from comfy_host import PACK_ROOT
from support.comfy_client import ComfyClient
from support.compare import both
from support.parity import relative_error
from support.ranks import BOOTSTRAP
from support.tiny_models import ModelShelf

MODULE = PACK_ROOT / "parallel_backend" / "host" / "launch" / "rank_python.py"
TELL = (
    "import json, runpy, sys\n"
    "given = runpy.run_path(sys.argv[1])['python_flags']()\n"
    "print(json.dumps([[*map(str, sys.flags)], {k: str(v) for k, v in sys._xoptions.items()}, given]))"
)


def told(*flags, **environment):
    """sys.flags and -X options of an interpreter with these flags, and what a rank would be given by it."""
    command = [sys.executable, *flags, "-c", TELL, str(MODULE)]
    return json.loads(subprocess.check_output(command, env=environment, stderr=subprocess.DEVNULL, timeout=60))


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("-s",),
        ("-E", "-s"),
        ("-I",),
        ("-P", "-OO", "-B"),
        ("-bb", "-q", "-W", "ignore"),
        ("-X", "dev", "-X", "pycache_prefix=/tmp/x"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("environment", [{}, {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}], ids=["bare", "set"])
def test_an_interpreter_with_the_given_flags_is_the_same(flags, environment):
    *host, given = told(*flags, **environment)
    assert given[0] == "-u"
    *rank, _ = told(*given, **environment)
    assert rank == host


@pytest.mark.timeout(300)
def test_a_comfyui_with_a_safe_path_and_flags_samples_right(start_comfy, host):
    """PYTHONSAFEPATH leaves a script's own folder out of sys.path, so ComfyUI's has to be named."""
    named = {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(host.tree), "OMP_NUM_THREADS": "1"}
    comfy = start_comfy(python_flags=("-s", "-X", "faulthandler"), **named)
    with ComfyClient(comfy.url, comfy.base / "output") as client:
        stock, found = both(client, ModelShelf(comfy.base / "models"), sampled)
    assert relative_error(found, stock) <= 1e-5
    commands = [command for command in comfy.processes().values() if BOOTSTRAP in command]
    assert len(commands) == 2 and all(" -s " in command and " -X faulthandler " in command for command in commands)


def sampled(graph, model):
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    return graph.sample("KSampler", model, graph.flux_conditioning(1), latent)
