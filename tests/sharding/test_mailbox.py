"""Mailboxes between real processes: what is sent comes, whatever way the stages have agreed on."""

import ctypes
from types import SimpleNamespace

import pytest
import torch
from support.rank_set import RankSets
from xdit_comfyui.parallel_backend.contract.config import MAX_PATCHES
from xdit_comfyui.parallel_backend.sharding.pipeline.pipelined_model import PipelinedModel
from xdit_comfyui.parallel_backend.sharding.plan.token_layout import Layout
from xdit_comfyui.parallel_backend.sharding.transfer import cuda_driver
from xdit_comfyui.parallel_backend.sharding.transfer.mailbox import ALIGNMENT, VALUES, data_bytes
from xdit_comfyui.parallel_backend.sharding.transfer.stream_values import PolledValues

ROUNDS = 3
NOT_THROUGH_MEMORY = (
    "PipeFusion's hidden states go through the process group, which is slower, and not through host memory: "
)


@pytest.fixture(scope="module")
def rank_sets():
    sets = RankSets("sharding.mailbox_side:MailboxSide")
    yield sets
    sets.stop()


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_is_sent_comes(rank_sets, ranks):
    """In calls of several numbers of patches one after the other; both ends count the same."""
    answers = rank_sets[ranks].run(("hand over", [3, 2, 4]))
    links = {}
    for right, through, notes, counted, left_open, mapped in answers:
        assert right and through == {True} and notes == [] and (left_open, mapped) == (0, 2)
        for name, count in counted.items():
            assert links.setdefault(name, count) == count
    assert [count for name, count in links.items() if name.endswith("mailbox")] == [ROUNDS * (3 + 2 + 4)] * ranks


def test_a_slot_is_not_written_before_it_was_read(rank_sets):
    assert rank_sets[2].run(("ahead",)) == [True, True]


@pytest.mark.parametrize("smaller", [False, True])
@pytest.mark.parametrize(
    ("step", "why"),
    [
        ("memory", "there is not enough of it"),
        ("mapping", "a rank cannot map another one's"),
        ("flags", "the driver does not wait for it"),
    ],
)
def test_where_one_rank_cannot_all_use_the_process_group(rank_sets, step, why, smaller):
    """At first, or when mailboxes have to grow."""
    for right, through, notes, counted, left_open, mapped in rank_sets[3].run(("hand over", [3, 2], step, smaller)):
        assert right and through == {False} and (left_open, mapped) == (0, 0)
        assert notes == [NOT_THROUGH_MEMORY + why] * 2  # for each set of conditions
        through_memory = {count for name, count in counted.items() if name.endswith("mailbox") and count}
        assert through_memory == ({ROUNDS * 2} if smaller else set())


def test_it_grows_and_does_not_shrink(rank_sets):
    """One mapping at either end of a link, whatever came before."""
    for found, left_open in rank_sets[2].run(("grow", [12, 4, 400, 400, 36])):
        assert found == [(1, True, 2), (1, True, 2), (2, True, 2), (2, True, 2), (2, True, 2)] and left_open == 0


def test_what_does_not_fit_is_refused_at_both_ends(rank_sets):
    for messages, counted in rank_sets[2].run(("too large",)):
        assert len(messages) == 2 and all("has room for" in message for message in messages)
        assert not any(count for name, count in counted.items() if name.endswith("mailbox"))


def test_what_an_ended_call_was_ready_for_is_forgotten(rank_sets):
    assert rank_sets[2].run(("ended early",)) == [True, True]


@pytest.mark.parametrize("streams", [(7,), (64,), (33, 54), (512, 4096), (1, 2, 200), (0, 77, 65)])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_a_patch_always_fits(streams, ranks):
    """Whatever number of patches, and however uneven they and the ranks' shares are."""
    row, names = 24, tuple(map(str, range(len(streams))))
    lengths = tuple(zip(names, streams, strict=True))
    for rank in range(ranks):
        of_rank = Layout(lengths, ranks, rank).split(names).local[rank]
        room = data_bytes(of_rank, len(streams), row)
        for patches in range(2, MAX_PATCHES + 1):
            cut = Layout(lengths, ranks * patches, rank, patches).split(names).local
            largest = max(cut[patch * ranks + rank] for patch in range(patches))
            assert largest * row + ALIGNMENT * VALUES <= room // patches // ALIGNMENT * ALIGNMENT


def test_a_wait_for_a_rank_that_does_not_hand_over_ends():
    flags = torch.zeros(64, dtype=torch.int32)
    values = PolledValues(flags, peer=3, timeout=0.05)
    with pytest.raises(TimeoutError, match=r"rank 3 did not do its part of a hand-over within 0\.05 s"):
        values.wait(2, 1)
    values.write(2, 1)
    values.wait(2, 1)
    assert flags.nonzero().tolist() == [[32]]


def test_a_call_of_the_driver_that_fails_is_named(monkeypatch):
    """libc stands for the driver."""
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libc.so.6")
    cuda_driver.driver_call("abs", ctypes.c_int(0))
    with pytest.raises(RuntimeError, match="abs returned CUresult 801"):
        cuda_driver.driver_call("abs", ctypes.c_int(-801))
    with pytest.raises(RuntimeError, match="the CUDA driver has no cuStreamOfAnotherDriver"):
        cuda_driver.driver_call("cuStreamOfAnotherDriver")


def test_a_graph_is_kept_for_the_memory_that_it_knows():
    """Where that has been replaced, another one is captured."""
    mailboxes = SimpleNamespace(generation=1)
    pipelined = SimpleNamespace(
        _sharded=SimpleNamespace(call=object()),
        _cache=SimpleNamespace(memory=SimpleNamespace(number=7)),
        in_patches=True,
        _patches=3,
        _pipe=SimpleNamespace(mailboxes=mailboxes),
    )
    before = PipelinedModel.situation(pipelined)
    assert PipelinedModel.situation(pipelined) == before
    mailboxes.generation = 2
    assert PipelinedModel.situation(pipelined) != before
