"""In how many patches a sequence flows through the stages when nobody says, and what is in each."""

import pytest
from xdit_comfyui.parallel_backend.sharding.pipeline.schedule import Schedule
from xdit_comfyui.parallel_backend.sharding.plan.patch_lengths import most_patches, patch_lengths


@pytest.mark.parametrize(
    ("tokens", "stages", "chunks", "patches"),
    [
        (4096, 2, 4, 3),
        (16384, 2, 4, 3),  # more leave less time to wait and take longer: benchmarks/NOTES.md
        (32760, 4, 4, 8),
        (2048, 2, 4, 2),
        (64, 3, 1, 3),
        (16384, 2, 1, 8),
    ],
)
def test_no_more_patches_than_waiting_asks_for(tokens, stages, chunks, patches):
    assert Schedule(0, 1).choose((512, tokens), stages, chunks, 1, print) == patches
    assert Schedule(5, 1).choose((512, tokens), stages, chunks, 1, print) == 5


@pytest.mark.parametrize(
    ("streams", "patches", "ranks", "lengths"),
    [
        ((512, 4096), 4, 1, [(512, 0, 0, 0), (640, 1152, 1152, 1152)]),
        ((512, 64, 4096), 4, 2, [(512, 0, 0, 0), (64, 0, 0, 0), (592, 1168, 1168, 1168)]),
        ((512, 1024), 3, 1, [(171, 171, 170), (342, 341, 341)]),  # nothing of the image would be in the first
        ((1024, 64), 2, 1, [(512, 512), (32, 32)]),
        ((3, 12), 3, 2, [(3, 0, 0), (2, 5, 5)]),
        ((3, 12), 3, 3, [(1, 1, 1), (4, 4, 4)]),  # one of three ranks would have nothing of it there
        ((10,), 4, 2, [(3, 3, 2, 2)]),
        ((33, 54), 1, 4, [(33,), (54,)]),
    ],
)
def test_text_is_in_the_first_patch_if_it_leaves_room(streams, patches, ranks, lengths):
    assert patch_lengths(streams, patches, ranks) == lengths


@pytest.mark.parametrize(
    ("streams", "wanted", "ranks", "most"),
    [
        ((512, 4096), 8, 2, 8),
        ((7, 35), 16, 1, 7),  # cut evenly
        ((4, 400), 64, 4, 57),  # with the text in the first
        ((3, 400), 8, 4, 1),
        ((5,), 8, 1, 5),
        ((5,), 8, 2, 2),
    ],
)
def test_every_rank_has_tokens_in_every_patch(streams, wanted, ranks, most):
    assert most_patches(streams, wanted, ranks) == most
    for patches in range(1, most + 1):
        cut = patch_lengths(streams, patches, ranks)
        assert [sum(lengths) for lengths in cut] == list(streams)
        assert most == 1 or all(length >= ranks for lengths in cut for length in lengths if length)
        assert most == 1 or min(map(sum, zip(*cut, strict=True))) >= ranks
