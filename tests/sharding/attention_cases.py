"""One attention to be split over ranks: its tensors, what it should give, and how a rank computes its part."""

import functools
import importlib.util
import random
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest import mock

import torch
import torch.nn.functional as F
from sharding.shared_files import in_shared_files
from xdit_comfyui.parallel_backend.sharding.attention import lse_attention, ring, ulysses
from xdit_comfyui.parallel_backend.sharding.attention.direct_ring import DirectRing
from xdit_comfyui.parallel_backend.sharding.attention.usp import announce_keys, sequence_parallel_attention
from xdit_comfyui.parallel_backend.sharding.attention.xfuser_adapter import XfuserUSP
from xdit_comfyui.parallel_backend.sharding.exchange.collectives import TokenSplit, new_sequence_groups


@dataclass
class AttentionCase:
    ulysses: int
    ring: int
    tokens: tuple[int, ...]
    heads: int = 4
    kv_heads: int | None = None
    kv_tokens: tuple[int, ...] | None = None
    batch: int = 1
    dim: int = 16
    dtype: torch.dtype = torch.float32
    mask: torch.Tensor | None = None
    scale: float | None = None
    token_major: bool = False  # memory as the models' qkv projections leave it, [B, L, H, D]
    through: str = "ours"  # or "xfuser", or "xfuser refuses": xfuser offered, our path expected
    plain_kernel: bool = False  # the ring's softmax in plain torch operations
    seed: int = 7
    late: bool = False  # ranks take their time before they read what came
    sign: float = 1.0  # of what the ring's kernel returns, to see that it is the one that is used
    sets: int = 1  # sequence groups side by side, each computing the same

    @property
    def splits(self) -> tuple[TokenSplit, TokenSplit]:
        return TokenSplit(self.tokens), TokenSplit(self.kv_tokens or self.tokens)

    def tensors(self) -> list[torch.Tensor]:
        """q, k, v of the whole sequence, [B, heads, L, D]."""
        generator = torch.Generator().manual_seed(self.seed)
        split_q, split_kv = self.splits
        kv_heads = self.kv_heads or self.heads
        shapes = [(self.heads, split_q.total), (kv_heads, split_kv.total), (kv_heads, split_kv.total)]
        return [
            torch.randn(self.batch, tokens, heads, self.dim, generator=generator).to(self.dtype).transpose(1, 2)
            for heads, tokens in shapes
        ]

    def expected(self) -> torch.Tensor:
        """[B, L, H*D], by torch on the whole sequence."""
        return one_device_attention(*self.tensors(), self.mask, self.scale)


def one_device_attention(q, k, v, mask, scale=None):
    """As ComfyUI's attention_pytorch: mask [L, L], [B, L, L] or 4D; out [B, L, H*D]."""
    if mask is not None and mask.ndim == 3:
        mask = mask.unsqueeze(1)
    gqa = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=gqa)
    return out.transpose(1, 2).flatten(2)


class RankSide:
    """What one rank keeps between cases: groups and xfuser adapters, one for each factorisation."""

    @staticmethod
    def prepare() -> None:
        if importlib.util.find_spec("xfuser"):  # else its cases are skipped
            import xfuser.model_executor.layers.usp  # noqa: F401

    def __init__(self):
        self._groups = {}
        self._direct = {}
        self._xfuser = {}
        in_shared_files()

    def answer(self, verb: str, case: AttentionCase | list[AttentionCase]) -> torch.Tensor | list[torch.Tensor]:
        if verb == "direct, in a row":
            return [self.attend(one, direct=True, announced=turn % 3 > 0) for turn, one in enumerate(case)]
        if verb == "control":
            with without_transfers():
                return self.attend(case)
        return self.attend(case, direct=verb in ("direct", "announced"), announced=verb == "announced")

    def attend(self, case: AttentionCase, direct: bool = False, announced: bool = False) -> torch.Tensor:
        """This rank's rows, [B, l, H*D]. `direct`: a ring that writes into the others' memory; `announced`: before."""
        key = (case.ulysses, case.ring, case.sets)
        if key not in self._groups:
            size = case.ulysses * case.ring
            sets = [range(i * size, (i + 1) * size) for i in range(case.sets)]
            self._groups[key] = new_sequence_groups(sets, case.ulysses, case.ring)
        groups = self._groups[key]
        if direct:
            if key not in self._direct:
                self._direct[key] = DirectRing(groups.ring, groups.ring_rank, groups.ring_size, torch.device("cpu"))
            groups = replace(groups, direct=self._direct[key])
        split_q, split_kv = case.splits
        q, k, v = (
            tensor[:, :, split.span(groups.rank, groups.rank + 1)]
            for tensor, split in zip(case.tensors(), (split_q, split_kv, split_kv), strict=True)
        )
        if not case.token_major:
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()

        xfuser = None
        if case.through != "ours":
            if key not in self._xfuser:
                self._xfuser[key] = XfuserUSP(groups)
            xfuser = self._xfuser[key]
            refusal = xfuser.refusal(q, k, v, split_q, split_kv, case.mask, case.scale)
            assert (refusal is None) == (case.through == "xfuser"), refusal
            if case.ring == 1:
                return xfuser(q, k, v, case.scale)

        return sequence_parallel_attention(
            q,
            k,
            v,
            groups=groups,
            split_q=split_q,
            split_kv=split_kv,
            kernel=lambda q, k, v, mask: one_device_attention(q, k, v, mask, case.scale),
            mask=case.mask,
            scale=case.scale,
            xfuser=xfuser,
            kernel_with_lse=_kernel_with_lse(case),
            announced=announce_keys(k, v, groups=groups, split_kv=split_kv) if announced else None,
        )


def _kernel_with_lse(case: AttentionCase) -> Callable | None:
    if case.sign != 1:
        return functools.partial(signed_attention, case.sign)
    return plain_attention_with_lse if case.plain_kernel else late_attention if case.late else None


def signed_attention(sign, q, k, v, mask, scale):
    out, lse = lse_attention.attention_with_lse(q, k, v, mask, scale)
    return sign * out, lse


def plain_attention_with_lse(q, k, v, mask, scale):
    plain = lse_attention._plain
    with (
        mock.patch.object(lse_attention, "_unmasked", lambda q, k, v, scale: plain(q, k, v, None, scale)),
        mock.patch.object(lse_attention, "_masked", plain),
        mock.patch.object(lse_attention, "_SCORES_AT_ONCE", 200),
    ):
        return lse_attention.attention_with_lse(q, k, v, mask, scale)


def late_attention(q, k, v, mask, scale):
    time.sleep(random.random() * 0.01)
    return lse_attention.attention_with_lse(q, k, v, mask, scale)


@contextmanager
def without_transfers():
    """Every rank keeps what it has in place of what the others would send. For the negative control."""

    def keep(send, send_sizes, recv_sizes, group):
        return send.repeat(2)[: sum(recv_sizes)]

    def stay(send, recv, group):
        recv.copy_(send)
        return []

    with mock.patch.object(ulysses, "exchange", keep), mock.patch.object(ring, "start_shift", stay):
        yield
