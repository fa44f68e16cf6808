"""The environment variables of a rank."""

from __future__ import annotations

from collections.abc import Mapping

from ...system.cache import cache_directory
from .surviving_ranks import VARIABLE

LOOPBACK = "lo"
ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
QUEUES, FEWEST_QUEUES = "CUDA_DEVICE_MAX_CONNECTIONS", 8  # of a GPU's work; CUDA's default


def rank_environment(host: Mapping[str, str], threads: int) -> dict[str, str]:
    """The host's environment, without the allocator ComfyUI sets for itself, bound to the loopback interface.

    cudaMallocAsync makes sequence-parallel ranks run out of memory. With fewer queues than CUDA's default (tensor
    parallel training sets one) a stream that waits for another rank could hold up what that rank waits for.
    """
    environment = dict(host)
    environment.pop(VARIABLE, None)
    for name in ALLOCATOR_VARIABLES:
        kept = [part for part in environment.pop(name, "").split(",") if part and "cudaMallocAsync" not in part]
        if kept:
            environment[name] = ",".join(kept)
    if environment.get(QUEUES, "").isdecimal() and int(environment[QUEUES]) < FEWEST_QUEUES:
        environment[QUEUES] = str(FEWEST_QUEUES)
    environment["GLOO_SOCKET_IFNAME"] = LOOPBACK
    environment["NCCL_SOCKET_IFNAME"] = LOOPBACK
    environment.setdefault("NCCL_RAS_ENABLE", "0")  # a listener on a fixed port that nothing here asks
    environment.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_directory() / "inductor"))
    environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")  # of each rank; its default is one for each core
    environment["TORCH_SYMM_MEM_DISABLE_MULTICAST"] = "1"  # not needed, and a fault of it outlives the process
    environment["OMP_NUM_THREADS"] = str(threads)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
