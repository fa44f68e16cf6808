"""Sequence-parallel attention on real GPUs: is it right, and how long does it take?

    python benchmarks/attention_check.py                # one rank per CUDA device
    python benchmarks/attention_check.py --device cpu --ranks 2 --tokens 512 --timed-tokens 512   # the same over gloo

Prints, for every path and case, the relative error ‖out − exact‖ / ‖exact‖ (largest of all ranks) beside that of one
device in the same dtype, exact being one device in fp32 (matmuls without TF32); then microseconds (median) for the
exchanges and for whole attentions, 24 heads of 128. Exits with 1 if an error is above twice the one device's.
`--json FILE` writes the same as data.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F

pack = types.ModuleType("xdit_comfyui")
pack.__path__ = [str(Path(__file__).resolve().parent.parent)]
sys.modules.setdefault("xdit_comfyui", pack)

from xdit_comfyui.parallel_backend.sharding.attention import ulysses  # noqa: E402
from xdit_comfyui.parallel_backend.sharding.attention.lse_attention import attention_with_lse  # noqa: E402
from xdit_comfyui.parallel_backend.sharding.attention.usp import sequence_parallel_attention  # noqa: E402
from xdit_comfyui.parallel_backend.sharding.attention.xfuser_adapter import XfuserUSP  # noqa: E402
from xdit_comfyui.parallel_backend.sharding.exchange.collectives import (  # noqa: E402
    SequenceGroups,
    TokenSplit,
    new_sequence_groups,
    split_evenly,
)

ROUNDS, CALLS = 7, 20
FLOOR = {torch.float32: 2e-6, torch.bfloat16: 1e-3}


@dataclass(frozen=True)
class Case:
    name: str
    tokens: int
    uneven: bool = False
    heads: int = 24
    kv_heads: int | None = None
    batch: int = 1
    mask: str | None = None


@dataclass(frozen=True)
class Row:
    path: str
    case: str
    dtype: str
    error: float
    one_device: float


@dataclass(frozen=True)
class Timing:
    what: str
    tokens: int
    microseconds: float


def cases(tokens: int) -> list[Case]:
    return [
        Case("even", tokens),
        Case("uneven tokens", tokens - 3, uneven=True),
        Case("uneven heads", tokens, heads=23),
        Case("batch 2", tokens, batch=2),
        Case("grouped queries", tokens - 3, uneven=True, kv_heads=6),
        Case("mask of keys", tokens - 3, uneven=True, batch=2, mask="keys"),
        Case("mask of all pairs", tokens - 3, uneven=True, mask="pairs"),
        Case("mask for each head", tokens, mask="heads"),
        Case("masked rows and chunks", tokens - 3, uneven=True, mask="rows"),
    ]


def paths(ranks: int, device: torch.device) -> list[tuple[str, tuple[int, int], str | None]]:
    """(name, (ulysses, ring), xfuser kernel; "" for ours inside USP, None for our path)."""
    factorings = [(u, ranks // u) for u in range(ranks, 0, -1) if ranks % u == 0]
    found = [(f"ulysses {u} × ring {r}", (u, r), None) for u, r in factorings]
    if find_spec("xfuser") is None:
        return found
    kernels = ["", "CUDNN", "SDPA_FLASH"] if device.type == "cuda" else [""]
    for u, r in factorings:
        if r > 1:
            found += [
                (f"xfuser USP {kernel or 'our kernel'}, ulysses {u} × ring {r}", (u, r), kernel) for kernel in kernels
            ]
    return found


def make_tensors(case: Case, head_dim: int, dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator(device=device).manual_seed(11)
    heads = (case.heads, case.kv_heads or case.heads, case.kv_heads or case.heads)
    return [
        torch.randn(case.batch, h, case.tokens, head_dim, generator=generator, device=device).to(dtype) for h in heads
    ]


def make_mask(case: Case, device: torch.device) -> torch.Tensor | None:
    n = case.tokens
    generator = torch.Generator(device=device).manual_seed(12)
    if case.mask is None:
        return None
    if case.mask == "keys":
        keep = torch.ones(case.batch, 1, 1, n, dtype=torch.bool, device=device)
        keep[0, ..., n // 3 :] = False
        return keep
    if case.mask == "pairs":
        return torch.randn(n, n, generator=generator, device=device)
    if case.mask == "heads":
        return torch.rand(1, case.heads, 1, n, generator=generator, device=device) > 0.3
    rows = torch.zeros(n, n, device=device)
    rows[:, n // 4 : 3 * n // 4] = float("-inf")
    rows[5] = float("-inf")
    return rows


def one_device(q, k, v, mask):
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2).flatten(2)


def relative_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    return ((got.float() - exact.float()).norm() / exact.float().norm()).item()


class Rank:
    def __init__(self, device: torch.device, ranks: int):
        self.device = device
        self.ranks = ranks
        self.groups: dict[tuple[int, int], SequenceGroups] = {}
        self.adapters: dict[tuple, XfuserUSP] = {}

    def setup(self, factoring: tuple[int, int], kernel: str | None):
        if factoring not in self.groups:
            self.groups[factoring] = new_sequence_groups([range(self.ranks)], *factoring)
        groups = self.groups[factoring]
        if kernel is None:
            return groups, None
        if (factoring, kernel) not in self.adapters:
            self.adapters[factoring, kernel] = XfuserUSP(groups, kernel or None)
        return groups, self.adapters[factoring, kernel]

    def worst(self, value: float) -> float:
        result = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(result, op=dist.ReduceOp.MAX)
        return result.item()

    def parity(self, case: Case, dtype: torch.dtype, head_dim: int) -> list[Row]:
        whole = make_tensors(case, head_dim, dtype, self.device)
        mask = make_mask(case, self.device)
        exact = one_device(*(t.float() for t in whole), mask)
        plain = relative_error(one_device(*whole, mask), exact)
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(dtype)
        local = split_evenly(case.tokens, self.ranks)
        if case.uneven:
            local = (local[0] + 5, *local[1:-1], local[-1] - 5)
        split = TokenSplit(local)
        rows = []
        for name, factoring, kernel in paths(self.ranks, self.device):
            groups, adapter = self.setup(factoring, kernel)
            mine = split.span(groups.rank, groups.rank + 1)
            q, k, v = (t[:, :, mine] for t in whole)
            if adapter is not None and adapter.refusal(q, k, v, split, split, mask, None) is not None:
                continue
            got = sequence_parallel_attention(
                q,
                k,
                v,
                groups=groups,
                split_q=split,
                split_kv=split,
                kernel=one_device,
                mask=mask,
                xfuser=adapter,
            )
            error = self.worst(relative_error(got, exact[:, mine]) if torch.isfinite(got).all() else float("inf"))
            rows.append(Row(name, case.name, str(dtype).removeprefix("torch."), error, self.worst(plain)))
        return rows

    def microseconds(self, work) -> float:
        """Of one call among CALLS back to back, as in a model: median of ROUNDS, slowest rank."""
        times = []
        for timed in range(-1, ROUNDS):
            dist.barrier()
            self.synchronize()
            start = time.perf_counter()
            for _ in range(CALLS):
                work()
            self.synchronize()
            if timed >= 0:
                times.append((time.perf_counter() - start) * 1e6 / CALLS)
        return self.worst(statistics.median(times))

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timings(self, tokens: int, head_dim: int, dtype: torch.dtype) -> list[Timing]:
        case = Case("timing", tokens)
        split = TokenSplit(split_evenly(tokens, self.ranks))
        whole = make_tensors(case, head_dim, dtype, self.device)
        groups, _ = self.setup((self.ranks, 1), None)
        q, k, v = (t[:, :, split.span(groups.rank, groups.rank + 1)].contiguous() for t in whole)
        # q and k leave rotary embedding head-major; v is still a view of the token-major qkv projection
        v = v.transpose(1, 2).contiguous().transpose(1, 2)
        heads = ulysses.split_heads(case.heads, case.heads, self.ranks)
        each = (heads.query, heads.kv, heads.kv)
        seen = ulysses.tokens_to_heads((q, k, v), each, split.local, groups)
        out = one_device(*seen, None)

        found = []

        def measure(what, work, setting=None):
            with setting or nullcontext():
                found.append(Timing(what, tokens, self.microseconds(work)))

        narrow = mock.patch.object(ulysses, "_can_widen", lambda tensor: False)
        to_heads = lambda: ulysses.tokens_to_heads((q, k, v), each, split.local, groups)  # noqa: E731
        measure("q/k/v exchange", to_heads)
        measure("q/k/v exchange, 2-byte copies", to_heads, narrow)
        measure(
            "  packing alone", lambda: ulysses._pack_even((q, k, v), [split[groups.ulysses_rank] for split in each])
        )
        measure("output exchange", lambda: ulysses.heads_to_tokens(out, heads.query, split.local, groups))
        if find_spec("xfuser") is not None:
            _, adapter = self.setup((self.ranks, 1), "")
            adapter(q, k, v)  # points xfuser at these groups
            from xfuser.model_executor.layers import usp as xfuser_usp

            measure("xfuser's q/k/v exchange", lambda: xfuser_usp._combined_qkv_all_to_all(q, k, v))
            measure("xfuser USP, whole, ulysses", lambda: adapter(q, k, v))

        measure("one device, torch's choice of kernel", lambda: one_device(*whole, None))
        measure("one device, kernel of the ring", lambda: attention_with_lse(*whole))
        for name, factoring, kernel in paths(self.ranks, self.device):
            path_groups, adapter = self.setup(factoring, kernel)
            measure(
                f"{name}, whole",
                lambda groups=path_groups, adapter=adapter: sequence_parallel_attention(
                    q, k, v, groups=groups, split_q=split, split_kv=split, kernel=one_device, xfuser=adapter
                ),
            )
        return found


def serve(arguments) -> bool:
    device = torch.device("cpu")
    if arguments.device == "cuda":
        device = torch.device("cuda", arguments.rank)
        torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = False
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.FileStore(arguments.store, arguments.ranks),
        rank=arguments.rank,
        world_size=arguments.ranks,
        timeout=timedelta(seconds=120),
    )
    rank = Rank(device, arguments.ranks)
    rows, timings = [], []
    with torch.inference_mode():
        for dtype in (torch.bfloat16, torch.float32):
            for case in cases(arguments.tokens):
                rows += rank.parity(case, dtype, arguments.head_dim)
        for tokens in arguments.timed_tokens:
            timings += rank.timings(tokens, arguments.head_dim, torch.bfloat16)
    bad = [row for row in rows if not row.error <= max(2 * row.one_device, FLOOR[getattr(torch, row.dtype)])]
    if arguments.rank == 0:
        report(rows, bad, timings)
        if arguments.json:
            data = {"torch": torch.__version__, "device": device_name(device), "ranks": arguments.ranks}
            data |= {"parity": [asdict(row) for row in rows], "timings": [asdict(timing) for timing in timings]}
            Path(arguments.json).write_text(json.dumps(data, indent=1) + "\n")
    dist.barrier()
    dist.destroy_process_group()
    return not bad


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def report(rows: list[Row], bad: list[Row], timings: list[Timing]) -> None:
    width = max(len(row.path) for row in rows)
    print(f"{'path':{width}}  {'case':24}{'dtype':10}{'error':>10}{'one device':>12}")
    for row in rows:
        mark = "  <- WRONG" if row in bad else ""
        print(f"{row.path:{width}}  {row.case:24}{row.dtype:10}{row.error:10.1e}{row.one_device:12.1e}{mark}")
    sizes = sorted({timing.tokens for timing in timings})
    print(f"\n{'microseconds at tokens =':60}" + "".join(f"{n:>10}" for n in sizes))
    for what in dict.fromkeys(timing.what for timing in timings):
        found = {timing.tokens: timing.microseconds for timing in timings if timing.what == what}
        print(f"{what:60}" + "".join(f"{found[n]:10.0f}" for n in sizes))
    print(f"\n{len(bad)} of {len(rows)} rows wrong", flush=True)


def spawn(arguments) -> int:
    """One process per rank; the first that fails ends the others."""
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            __file__,
            *sys.argv[1:],
            "--ranks",
            str(arguments.ranks),
            "--store",
            f"{folder}/store",
        ]
        processes = [subprocess.Popen([*command, "--rank", str(rank)], env=env) for rank in range(arguments.ranks)]
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                time.sleep(5)
                for process in processes:
                    process.kill()
            time.sleep(0.2)
        return max(abs(process.wait()) for process in processes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--ranks", type=int, default=None, help="default: CUDA devices")
    parser.add_argument("--tokens", type=int, default=4608, help="tokens of the parity cases")
    parser.add_argument("--timed-tokens", type=int, nargs="+", default=[4608, 16896])
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--rank", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.ranks = arguments.ranks or torch.cuda.device_count()
    if arguments.ranks < 2:
        parser.error(f"needs at least 2 ranks, found {arguments.ranks} CUDA devices: pass --device cpu --ranks 2")
    if arguments.rank is None:
        return spawn(arguments)
    return 0 if serve(arguments) else 1


if __name__ == "__main__":
    sys.exit(main())
