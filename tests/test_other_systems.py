"""Windows and macOS: the nodes are there, and say in a sentence that sampling needs Linux."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_models import ModelShelf

SCRIPT = Path(__file__).parent / "support" / "other_system.py"
NODES = [
    "XDiTBenchmark",
    "XDiTCheckpointLoader",
    "XDiTDiffusersLoader",
    "XDiTDoctor",
    "XDiTLoader",
    "XDiTParallelConfig",
    "XDiTSampler",
    "XDiTSamplerAdvanced",
]
SENTENCE = "runs on Linux (WSL2 included); here its nodes are registered but cannot sample"


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_the_nodes_show_up_and_say_that_sampling_needs_linux(host, tmp_path, system):
    models = ModelShelf(tmp_path)
    model = tmp_path / "diffusion_models" / models.flux(256, 1, 1)
    command = [sys.executable, str(SCRIPT), str(host.tree), system, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["nodes"] == NODES
    assert found["loader"].startswith("ConfigError: ") and SENTENCE in found["loader"]
    assert found["sampler"].startswith("ConfigError: ") and SENTENCE in found["sampler"]
    assert "xDiT doctor (2 CPU rank(s)): 1 problem(s)" in found["doctor"]
    assert "runs on Linux (WSL2 included)" in " ".join(found["doctor"].split())
