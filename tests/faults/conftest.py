"""A ComfyUI whose ranks fail: short limits, test nodes that make ranks fail, short waits for what must not last."""

import pytest
from comfy_host import PACK_ROOT
from comfy_host.instance import ComfyInstance, make_base_directory
from support.console import watch
from support.faults import FAILING_DEVICES, FaultGraph
from support.tiny_models import ModelShelf

SILENCE, STALL = 4, 6  # seconds
SUPPORT = PACK_ROOT / "tests" / "support"


@pytest.fixture(scope="package")
def comfy(host, tmp_path_factory):
    """One ComfyUI for all tests of faults."""
    packs = {"xdit-test-nodes": SUPPORT / "host_nodes", "xdit-test-faults": SUPPORT / "fault_nodes"}
    base = make_base_directory(tmp_path_factory.mktemp("faulty-comfyui"), packs)
    environment = {
        "XDIT_HEARTBEAT_TIMEOUT": str(SILENCE),
        "XDIT_STALL_TIMEOUT": str(STALL),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SUPPORT / "start_faults"),
        "XDIT_TEST_FAILING_DEVICES": str(base / FAILING_DEVICES),
    }
    with ComfyInstance(host, base, ["--cpu", "--force-fp32"], environment) as instance:
        watch(instance)
        yield instance


@pytest.fixture(scope="package")
def models(comfy) -> ModelShelf:
    return ModelShelf(comfy.base / "models")


@pytest.fixture
def faults(comfy, client, models, tmp_path):
    """Samples with and without faults, and holds latents against stock ComfyUI's."""
    yield FaultGraph(comfy, client, models, tmp_path)
    (comfy.base / FAILING_DEVICES).unlink(missing_ok=True)
