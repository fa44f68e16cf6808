"""What ranks take over from ComfyUI's environment, and what not."""

import pytest
from xdit_comfyui.parallel_backend.host.launch.rank_environment import rank_environment


@pytest.mark.parametrize(("host", "ranks"), [("1", "8"), ("7", "8"), ("8", "8"), ("32", "32"), (None, None)])
def test_streams_have_queues_enough(host, ranks):
    given = {} if host is None else {"CUDA_DEVICE_MAX_CONNECTIONS": host}
    assert rank_environment(given, 1).get("CUDA_DEVICE_MAX_CONNECTIONS") == ranks


def test_comfyui_s_allocator_stays_there():
    found = rank_environment({"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync,max_split_size_mb:64"}, 1)
    assert found["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:64"
    assert "PYTORCH_CUDA_ALLOC_CONF" not in rank_environment({"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}, 1)


def test_what_the_person_set_for_the_compiler_counts():
    found = rank_environment({"TORCHINDUCTOR_CACHE_DIR": "/there", "HOME": "/home"}, 3)
    assert found["TORCHINDUCTOR_CACHE_DIR"] == "/there" and found["HOME"] == "/home" and found["OMP_NUM_THREADS"] == "3"
