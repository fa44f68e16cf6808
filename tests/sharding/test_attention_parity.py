"""Attention split over real processes gives what one device gives: Ulysses, ring, both, and xfuser's USP too."""

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from support.rank_origin import make_pack_importable  # noqa: E402
from support.rank_set import RankSets  # noqa: E402

make_pack_importable()

from attention_cases import AttentionCase, one_device_attention  # noqa: E402
from xdit_comfyui.parallel_backend.sharding.attention.lse_attention import attention_with_lse  # noqa: E402
from xdit_comfyui.parallel_backend.sharding.attention.ulysses import split_heads  # noqa: E402
from xdit_comfyui.parallel_backend.sharding.attention.usp import sequence_parallel_attention  # noqa: E402
from xdit_comfyui.parallel_backend.sharding.exchange.collectives import TokenSplit, split_evenly  # noqa: E402

FACTORINGS = [(2, 1), (3, 1), (4, 1), (1, 2), (1, 3), (1, 4), (2, 2)]
LIMIT = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.fixture(scope="module")
def rank_sets():
    sets = RankSets("attention_cases:RankSide")
    yield sets
    sets.stop()


@pytest.fixture(params=FACTORINGS, ids=lambda f: f"ulysses{f[0]}-ring{f[1]}")
def factoring(request):
    return request.param


def relative_error(got, expected):
    error, size = (got.double() - expected.double()).norm(), expected.double().norm()
    return (error / size).item() if size else error.item()


def run(rank_sets, case, verb="case"):
    """The whole output, put together from the ranks' rows."""
    rows = rank_sets[case.ulysses * case.ring].run((verb, case))
    for row, tokens in zip(rows, case.tokens, strict=True):
        assert row.shape == (case.batch, tokens, case.heads * case.dim)
        assert row.dtype == case.dtype
    return torch.cat(rows, dim=1)


def ways(case):
    """A ring sends keys and values, or writes them into the memory of the others, and can begin with it before."""
    return ("case", "direct", "announced") if case.ring > 1 and case.through == "ours" else ("case",)


def check(rank_sets, case):
    for way in ways(case):
        got = run(rank_sets, case, way)
        assert torch.isfinite(got).all()
        assert relative_error(got, case.expected()) <= LIMIT[case.dtype]


def text_and_image(size, text=33, image=7):
    """Each rank's share of both, as a plan that splits text and image gives it."""
    return tuple(t + i for t, i in zip(split_evenly(text, size), split_evenly(image, size), strict=True))


def bool_mask(*shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) > 0.4
    mask[..., 0] = True
    return mask


def additive_mask(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def test_even_tokens_and_heads(rank_sets, factoring):
    size = factoring[0] * factoring[1]
    check(rank_sets, AttentionCase(*factoring, tokens=(12,) * size, heads=12))


@pytest.mark.parametrize("token_major", [False, True], ids=["head-major", "token-major"])
@pytest.mark.parametrize("batch", [1, 2])
def test_uneven_tokens_and_heads_in_a_batch(rank_sets, factoring, batch, token_major):
    size = factoring[0] * factoring[1]
    check(
        rank_sets,
        AttentionCase(*factoring, tokens=text_and_image(size), heads=5, batch=batch, token_major=token_major),
    )


def test_head_size_that_is_no_multiple_of_16_bytes(rank_sets, factoring):
    size = factoring[0] * factoring[1]
    check(rank_sets, AttentionCase(*factoring, tokens=(9,) * size, heads=4, dim=7, batch=2))


def test_more_ranks_than_tokens(rank_sets, factoring):
    size = factoring[0] * factoring[1]
    check(rank_sets, AttentionCase(*factoring, tokens=split_evenly(1, size)))


def test_all_tokens_on_the_last_rank(rank_sets, factoring):
    size = factoring[0] * factoring[1]
    check(rank_sets, AttentionCase(*factoring, tokens=(0,) * (size - 1) + (6,)))


def test_queries_and_keys_of_different_length(rank_sets, factoring):
    size = factoring[0] * factoring[1]
    check(rank_sets, AttentionCase(*factoring, tokens=text_and_image(size), kv_tokens=split_evenly(19, size), batch=2))


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_grouped_queries(rank_sets, factoring, kv_heads):
    size = factoring[0] * factoring[1]
    check(rank_sets, AttentionCase(*factoring, tokens=text_and_image(size), heads=12, kv_heads=kv_heads, batch=2))


def test_a_scale_of_its_own(rank_sets, factoring):
    size = factoring[0] * factoring[1]
    check(rank_sets, AttentionCase(*factoring, tokens=text_and_image(size), scale=0.7))


@pytest.mark.parametrize(
    "shape",
    [(40, 40), (1, 40), (2, 40, 40), (2, 1, 1, 40), (1, 1, 40, 40), (2, 5, 40, 40), (1, 5, 1, 40), (2, 5, 40, 1)],
    ids=str,
)
@pytest.mark.parametrize("make", [bool_mask, additive_mask])
def test_masks(rank_sets, factoring, make, shape):
    size = factoring[0] * factoring[1]
    check(rank_sets, AttentionCase(*factoring, tokens=text_and_image(size), heads=5, batch=2, mask=make(*shape)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("off", [False, float("-inf"), -65504.0, torch.finfo(torch.float32).min], ids=str)
def test_masked_rows_and_masked_chunks_are_as_on_one_device(rank_sets, factoring, off, dtype):
    """Row 2 has no key at all; for the others, most ranks' keys are masked as a whole (padding).

    Held against fp64: one device in fp32 adds -65504 to scores and keeps two digits of them.
    """
    size = factoring[0] * factoring[1]
    mask = torch.ones(40, 40, dtype=torch.bool) if off is False else torch.zeros(40, 40)
    mask[:, 13:] = off
    mask[2] = off
    case = AttentionCase(*factoring, tokens=text_and_image(size), mask=mask, dtype=dtype)
    exact = one_device_attention(*(t.double() for t in case.tensors()), mask if off is False else mask.double())
    one_device = case.expected()
    for got, rows in itertools.product([run(rank_sets, case, way) for way in ways(case)], (slice(None), slice(2, 3))):
        limit = max(LIMIT[dtype], 1.1 * relative_error(one_device[:, rows], exact[:, rows]))
        assert relative_error(got[:, rows], exact[:, rows]) <= limit


@pytest.mark.parametrize("ring", [2, 3])
def test_a_direct_ring_never_writes_what_others_still_read(rank_sets, ring):
    """Attentions in a row, of ranks that are late on purpose; sizes change between, so that buffers grow too."""
    cases = [
        AttentionCase(1, ring, tokens=tuple(turn % 5 + rank for rank in range(ring)), seed=turn, late=True)
        for turn in range(20)
    ]
    outputs = zip(*rank_sets[ring].run(("direct, in a row", cases)), strict=True)
    for case, rows in zip(cases, outputs, strict=True):
        assert relative_error(torch.cat(rows, dim=1), case.expected()) <= LIMIT[torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(rank_sets, factoring, dtype):
    size = factoring[0] * factoring[1]
    for mask in (None, bool_mask(2, 1, 40, 40), additive_mask(40, 40), additive_mask(40, 40).to(dtype)):
        case = AttentionCase(*factoring, tokens=text_and_image(size), heads=5, batch=2, dtype=dtype, mask=mask)
        exact = AttentionCase(*factoring, tokens=case.tokens, heads=5, batch=2)
        truth = [t.float() for t in case.tensors()]
        exact.tensors = lambda truth=truth: truth
        exact.mask = mask if mask is None or mask.dtype == torch.bool else mask.float()
        one_device = relative_error(case.expected(), exact.expected())
        for way in ways(case):
            assert relative_error(run(rank_sets, case, way), exact.expected()) <= 1.5 * one_device


@pytest.mark.parametrize("factoring", [(2, 1), (1, 2)], ids=str)
def test_two_sequence_groups_side_by_side(rank_sets, factoring):
    """As with cfg 2: ranks 0, 1 and ranks 2, 3 each hold the whole sequence."""
    case = AttentionCase(*factoring, tokens=text_and_image(2), sets=2)
    rows = rank_sets[4].run(("case", case))
    for both in (rows[:2], rows[2:]):
        assert relative_error(torch.cat(both, dim=1), case.expected()) <= LIMIT[torch.float32]


@pytest.mark.parametrize("mask", [None, bool_mask(2, 5, 40, 40), additive_mask(40)[None]], ids=["none", "bool", "add"])
def test_ring_by_plain_softmax(rank_sets, mask):
    """The kernel for devices that torch has no fused one for, a few queries at a time."""
    check(
        rank_sets,
        AttentionCase(1, 3, tokens=text_and_image(3), heads=5, batch=2, mask=mask, plain_kernel=True),
    )


def test_without_the_exchange_the_result_is_wrong(rank_sets, factoring):
    """The negative control: these tests notice when nothing is sent."""
    size = factoring[0] * factoring[1]
    case = AttentionCase(*factoring, tokens=(12,) * size, heads=12)
    assert relative_error(run(rank_sets, case, "control"), case.expected()) > 0.1


@pytest.mark.parametrize("factoring", [(1, 2), (2, 2)], ids=str)
@pytest.mark.parametrize("through", ["ours", "xfuser"])
def test_a_ring_attends_by_the_kernel_that_it_is_given(rank_sets, factoring, through):
    if through == "xfuser" and importlib.util.find_spec("xfuser") is None:
        pytest.skip("xfuser is not installed")
    case = AttentionCase(*factoring, tokens=(12,) * (factoring[0] * factoring[1]), through=through, sign=-1.0)
    for way in ways(case):
        assert relative_error(-run(rank_sets, case, way), case.expected()) <= LIMIT[torch.float32]


needs_xfuser = pytest.mark.skipif(importlib.util.find_spec("xfuser") is None, reason="xfuser is not installed")


@needs_xfuser
def test_xfuser_agrees_on_ring_and_ulysses_alternated(rank_sets):
    """One xfuser state, two factorisations in turn."""
    for factoring in [(1, 2), (2, 1), (1, 2), (2, 1)]:
        for scale in (None, 0.7):
            check(
                rank_sets, AttentionCase(*factoring, tokens=(20, 20), heads=6, batch=2, through="xfuser", scale=scale)
            )


@needs_xfuser
def test_xfuser_agrees_on_ulysses_by_ring(rank_sets):
    for factoring in [(2, 2), (1, 4), (2, 2)]:
        check(rank_sets, AttentionCase(*factoring, tokens=(10,) * 4, heads=6, through="xfuser", token_major=True))


@needs_xfuser
@pytest.mark.parametrize(
    "case",
    [
        AttentionCase(1, 2, tokens=(21, 19)),
        AttentionCase(1, 2, tokens=(20, 20), mask=bool_mask(40, 40)),
        AttentionCase(1, 2, tokens=(20, 20), heads=6, kv_heads=2),
        AttentionCase(2, 2, tokens=(10,) * 4, heads=5),
    ],
    ids=["uneven tokens", "mask", "grouped queries", "uneven heads"],
)
def test_our_path_serves_what_xfuser_cannot(rank_sets, case):
    case.through = "xfuser refuses"
    check(rank_sets, case)


def test_the_log_sum_exp_is_that_of_the_scores():
    q, k, v = (torch.randn(2, 3, n, 16, generator=torch.Generator().manual_seed(n)) for n in (11, 13, 13))
    for mask in (None, bool_mask(11, 13), additive_mask(2, 1, 1, 13)):
        scores = q @ k.transpose(-1, -2) / 4
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        torch.testing.assert_close(attention_with_lse(q, k, v, mask)[1], scores.logsumexp(-1))


def test_more_ulysses_ranks_than_heads_name_what_works():
    with pytest.raises(ValueError, match="has 3: use ulysses 2 × ring 2 or ulysses 1 × ring 4"):
        split_heads(3, 3, ulysses=4)


def test_heads_are_split_in_whole_groups():
    assert split_heads(4, 4, 3).query == (2, 1, 1)
    grouped = split_heads(24, 8, 3)
    assert (grouped.query, grouped.kv, grouped.kv_repeat) == ((9, 9, 6), (3, 3, 2), 1)
    repeated = split_heads(8, 2, 3)
    assert (repeated.query, repeated.kv, repeated.kv_repeat) == ((4, 2, 2), (2, 1, 1), 2)


def test_wrong_lengths_are_refused_before_any_exchange():
    from xdit_comfyui.parallel_backend.sharding.exchange.collectives import SequenceGroups

    groups = SequenceGroups(None, 0, 2, None, 0, 1, (0, 1), None)
    q = torch.zeros(1, 4, 5, 8)

    def attend(q=q, v=q, mask=None, split=(5, 4)):
        split = TokenSplit(split)
        sequence_parallel_attention(q, q, v, groups=groups, split_q=split, split_kv=split, kernel=None, mask=mask)

    with pytest.raises(ValueError, match=r"rank 0 of 2 holds 5 tokens of q, the split is \(4, 4\)"):
        attend(split=(4, 4))
    with pytest.raises(ValueError, match=r"mask \(9, 8\) does not fit 4 heads, 9 queries, 9 keys"):
        attend(mask=torch.zeros(9, 8))
    with pytest.raises(ValueError, match="one dtype"):
        attend(v=q.half())


def test_a_rank_alone_in_its_group_exchanges_nothing():
    from xdit_comfyui.parallel_backend.sharding.exchange.collectives import exchange, start_shift

    with pytest.raises(ValueError, match="alone in its group"):
        exchange(torch.zeros(4), [4], [4], None)
    with pytest.raises(ValueError, match="alone in its group"):
        start_shift(torch.zeros(4), torch.zeros(4), None)
