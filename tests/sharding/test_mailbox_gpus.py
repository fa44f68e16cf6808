"""Mailboxes between two real GPUs: `pytest -m gpu tests/sharding/test_mailbox_gpus.py`."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.gpus import GPUS, NEEDED

pytestmark = [*NEEDED, pytest.mark.timeout(180)]
SCRIPT = Path(__file__).with_name("mailbox_gpus.py")
WITHIN_S = 120


def test_what_is_sent_comes_in_eager_calls_and_in_cuda_graphs(tmp_path):
    """Both ways at once, with kernels between; then again through larger memory."""
    logs = [tmp_path / f"rank{rank}.log" for rank in range(GPUS)]
    ranks = []
    try:
        for rank, log in enumerate(logs):
            with log.open("w") as output:
                command = [sys.executable, str(SCRIPT), str(rank), str(tmp_path / "store")]
                ranks.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
        codes = [rank.wait(WITHIN_S) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
        for log in logs:
            print(log.read_text())  # pytest shows it where the test fails
    assert codes == [0] * GPUS
    assert all(log.read_text().count("are what was sent") == 4 for log in logs)
