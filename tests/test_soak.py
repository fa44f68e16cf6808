"""Thirty prompts with cancels, killed ranks and switches of models: all right, and nothing grows."""

import pytest
from support.comfy_client import ComfyClient
from support.soak.plan import make_plan
from support.soak.resources import growth
from support.soak.run import Soak


@pytest.mark.timeout(600)
def test_thirty_prompts_and_three_kills(start_comfy):
    comfy = start_comfy("--cpu", "--force-fp32", OMP_NUM_THREADS="1")
    plan = make_plan(prompts=30, kills=3, seed=1)
    outcomes = []
    with ComfyClient(comfy.url, comfy.base / "output") as client:
        soak = Soak(comfy, client)
        soak.prepare()
        soak.run(plan, outcomes.append)
    assert len(outcomes) == 30
    assert not [(step, outcome) for step, outcome in zip(plan, outcomes, strict=True) if not outcome.good]
    assert sum(outcome.end == "right" for outcome in outcomes) >= 20
    assert not growth([outcome.resources for outcome in outcomes if outcome.resources])
