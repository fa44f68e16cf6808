"""Prometheus metrics of a real server: off unless asked for, right after prompts that end in every way."""

import os
import signal
import time
import urllib.error
import urllib.request

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.comfy_client import ComfyClient, PromptFailed
from support.prompts import Graph
from support.ranks import rank_pids, resident_bytes
from support.tiny_models import ModelShelf

DEVICES = "cpu:2"


def scrape(comfy):
    """Sample name with its labels → value."""
    with urllib.request.urlopen(f"{comfy.url}/xdit/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        families = text_string_to_metric_families(answer.read().decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def refused(comfy, **request):
    """The status of a request for the metrics that is not answered."""
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(urllib.request.Request(f"{comfy.url}/xdit/metrics", **request), timeout=30)
    return answer.value.code


def wait_until_gone(pid):
    """Gone or a zombie, which its parent sees as ended."""
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def flux(name, seed, steps=4, samplers=1, conditioning=None, size=128):
    graph = Graph()
    model = graph.add(
        "XDiTLoader", unet_name=name, weight_dtype="default", parallel_config=graph.parallel_config(DEVICES)
    )
    latent = graph.add("EmptySD3LatentImage", width=size, height=size, batch_size=1)
    positive = graph.add("RandomConditioning", **conditioning) if conditioning else graph.flux_conditioning(1)
    for _ in range(samplers):
        latent = graph.sample("KSampler", model, positive, latent, seed=seed, steps=steps)
    graph.save(latent)
    return graph.prompt


def test_without_xdit_metrics_there_is_no_such_route(comfy):
    assert refused(comfy) == 404


def test_metrics_after_prompts_that_end_in_every_way(start_comfy):
    comfy = start_comfy("--cpu", "--force-fp32", XDIT_METRICS="1", OMP_NUM_THREADS="1")
    name = ModelShelf(comfy.base / "models").flux()
    assert scrape(comfy)["xdit_steps_total",] == 0
    assert refused(comfy, method="POST") == 405
    assert refused(comfy, headers={"Origin": "http://another.example"}) == 403
    with ComfyClient(comfy.url, comfy.base / "output") as client:
        result = client.run(flux(name, seed=1, samplers=2))
        found = scrape(comfy)
        assert found["xdit_prompts_total", "done"] == 1
        assert found["xdit_runs_total",] == 2 and found["xdit_steps_total",] == 8
        assert found["xdit_step_seconds_count",] == 8
        assert 0 < found["xdit_step_seconds_sum",] < result.seconds
        assert found["xdit_prompt_gpu_seconds_count",] == 1
        assert 2 * found["xdit_step_seconds_sum",] < found["xdit_gpu_seconds_total",] < 2 * result.seconds
        assert found["xdit_prompt_gpu_seconds_sum",] == pytest.approx(found["xdit_gpu_seconds_total",])
        assert found["xdit_group_starts_total",] == 1 and found["xdit_group_restarts_total",] == 0
        ranks = sorted(rank_pids(comfy))
        for rank in ("0", "1"):
            assert found["xdit_rank_memory_bytes", rank] == pytest.approx(resident_bytes(ranks[int(rank)]), rel=0.2)

        wrong = {"seed": 1, "tokens": 16, "context_dim": 96, "pooled_dim": 64, "guidance": 3.5}
        with pytest.raises(PromptFailed):
            client.run(flux(name, seed=2, conditioning=wrong))
        running = client.queue(flux(name, seed=3, steps=2000))
        client.wait_for_step(running, 2)
        during = scrape(comfy)
        assert "cancelled" not in {key[1] for key in during if key[0] == "xdit_prompts_total"}
        client.interrupt(running)
        assert client.wait(running).interrupted
        os.kill(ranks[0], signal.SIGKILL)
        wait_until_gone(ranks[0])
        client.run(flux(name, seed=4))

    after = scrape(comfy)
    assert {key[1]: value for key, value in after.items() if key[0] == "xdit_prompts_total"} == {
        "done": 2,
        "failed": 1,
        "cancelled": 1,
    }
    assert {key[1]: value for key, value in after.items() if key[0] == "xdit_failures_total"} == {"RequestRefused": 1}
    assert after["xdit_prompt_gpu_seconds_count",] == 4
    assert after["xdit_steps_total",] >= during["xdit_steps_total",] + 4
    assert after["xdit_group_starts_total",] == 2 and after["xdit_group_restarts_total",] == 1
