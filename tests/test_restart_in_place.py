"""ComfyUI's program starts itself anew in the same process: its ranks end, and nothing of them stays."""

import urllib.request
from pathlib import Path

import psutil
import pytest
from support.comfy_client import ComfyClient
from support.compare import TOLERANCE, both
from support.parity import relative_error
from support.ranks import rank_pids
from support.tiny_models import ModelShelf
from support.waiting import wait_until

PACK = {"xdit-test-restart": Path(__file__).parent / "support" / "restart_nodes"}


def sampled(graph, model):
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    return graph.sample("KSampler", model, graph.flux_conditioning(1), latent)


def restart(comfy, client):
    ranks = rank_pids(comfy)
    before = comfy.log.read_text(errors="replace").count("To see the GUI go to")
    client.run({"restart": {"class_type": "RestartInPlace", "inputs": {}}})
    wait_until(lambda: comfy.log.read_text(errors="replace").count("To see the GUI go to") > before, 120)
    wait_until(lambda: urllib.request.urlopen(f"{comfy.url}/system_stats", timeout=5))
    assert len(ranks) == 2 and not rank_pids(comfy) & ranks


@pytest.mark.timeout(400)
def test_two_restarts_leave_no_rank_in_the_process_table(start_comfy):
    comfy = start_comfy(packs=PACK, OMP_NUM_THREADS="1")
    models = ModelShelf(comfy.base / "models")
    for _ in range(2):
        with ComfyClient(comfy.url, comfy.base / "output") as client:
            stock, found = both(client, models, sampled)
            assert relative_error(found, stock) <= TOLERANCE
            restart(comfy, client)
    children = psutil.Process(comfy.pid).children
    wait_until(lambda: not [one for one in children() if one.status() == psutil.STATUS_ZOMBIE], 20)
