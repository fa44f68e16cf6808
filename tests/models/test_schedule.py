"""In how many patches a sequence flows through the stages when nobody says."""

import pytest
from xdit_comfyui.parallel_backend.sharding.pipeline.schedule import Schedule


@pytest.mark.parametrize(
    ("tokens", "stages", "chunks", "patches"),
    [
        (4096, 2, 4, 4),
        (16384, 2, 4, 4),  # 8 leave less time to wait and take longer: benchmarks/NOTES.md
        (32760, 4, 4, 8),
        (2048, 2, 4, 2),
        (64, 3, 1, 3),
        (16384, 2, 1, 8),
    ],
)
def test_no_more_patches_than_waiting_asks_for(tokens, stages, chunks, patches):
    assert Schedule(0, 1).choose((512, tokens), stages, chunks, 1, print) == patches
    assert Schedule(5, 1).choose((512, tokens), stages, chunks, 1, print) == 5
