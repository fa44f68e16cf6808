"""The demo: all of it once, and that it does not say "All held" when something did not."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import demo_prompts
import pytest
import torch


def test_the_demo_runs_and_holds(host, tmp_path):
    command = [sys.executable, demo_prompts.__file__, host.tree, tmp_path / "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step of 8: 1 2 3 4 5 6 7 8\n" in done.stdout
    assert "All held" in done.stdout


GOOD = demo_prompts.Run(2, 2, 1.0, 1.0, torch.ones(1, 16, 8, 8), Path("two"))
ONE = replace(GOOD, ranks=1, processes=1, file=Path("one"))


def test_equal_latents_of_two_and_of_one_process_hold():
    assert demo_prompts.report(GOOD, ONE)


@pytest.mark.parametrize(
    "two, one",
    [
        (replace(GOOD, latent=GOOD.latent * 1.0001), ONE),
        (replace(GOOD, latent=GOOD.latent / 0), ONE),
        (replace(GOOD, processes=1), ONE),
        (GOOD, replace(ONE, processes=2)),
    ],
    ids=["another latent", "an infinite latent", "one process instead of two", "two processes instead of one"],
)
def test_anything_else_is_said_not_to_be_true(two, one, capsys):
    assert not demo_prompts.report(two, one)
    assert "NOT TRUE" in capsys.readouterr().err
