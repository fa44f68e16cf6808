"""Which models' forwards can be replayed as CUDA graphs: the tests' tiny models, on one GPU and on all.

    python benchmarks/graph_check.py --comfyui PATH --json FILE [--cases WORD ...]

Each case is called five times with other values, captured on the way, and its outputs are compared with those of the
same calls without graphs: they must be equal bit for bit. A plan gets `graphs=True` when every case of it that can be
captured is, and no other gives another output.
"""

import argparse
import json
import os
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from direct.launch import one_rank_per_gpu

ROOT = Path(__file__).resolve().parents[1]
CALLS = 5


def values(case, call: int):
    """The arguments of a case's call on the GPU: other values in each call, the same shapes."""
    from torch.utils._pytree import tree_map

    args, kwargs = case.inputs()
    kwargs.setdefault("transformer_options", {})

    def moved(leaf):
        if not isinstance(leaf, torch.Tensor):
            return leaf
        leaf = leaf.cuda()
        return leaf * (1 - 0.07 * call) if leaf.is_floating_point() else leaf

    return tree_map(moved, args), tree_map(moved, kwargs)


def outputs(model, case) -> list[torch.Tensor]:
    found = []
    for call in range(CALLS):
        args, kwargs = values(case, call)
        output = model(*args, **kwargs)
        parts = output if isinstance(output, tuple | list) else [output]
        found.append(torch.cat([part.flatten() for part in parts]).clone())
    return found


def check(case, groups) -> dict:
    from xdit_comfyui.parallel_backend.compiled.graphs import GraphedForward
    from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
    from xdit_comfyui.parallel_backend.sharding.engine.session import Session
    from xdit_comfyui.parallel_backend.sharding.plans import plan_for

    notes: list[str] = []
    model = case.model().cuda()
    plan = plan_for(model)
    sharded = ShardedModel(model, plan)
    sharded.session = Session(groups) if groups is not None else None
    expected = outputs(model, case)
    graphed = GraphedForward(model, sharded.restart, sharded.situation)
    graphed.start(notes.append, ())
    found = outputs(model, case)
    return {
        "plan": plan.model,
        "captured": len(graphed._graphs),
        "equal": all(map(torch.equal, found, expected)),
        "varies": not torch.equal(expected[0], expected[-1]),
        "notes": notes,
    }


def serve(rank: int, size: int, store: str, options: argparse.Namespace) -> None:
    import types

    torch.cuda.set_device(rank)
    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.FileStore(store, size), rank=rank, world_size=size)
    for name, path in (("xdit_comfyui", ROOT), ("support", ROOT / "tests/support"), ("models", ROOT / "tests/models")):
        sys.modules[name] = package = types.ModuleType(name)
        package.__path__ = [str(path)]
    from models.cases import CASES
    from xdit_comfyui.parallel_backend.sharding.exchange.collectives import new_sequence_groups

    groups = new_sequence_groups([range(size)], size, 1)
    rows = []
    for name, case in CASES.items():
        if options.cases and not any(word in name for word in options.cases):
            continue
        for gpus in sorted({1, size}):
            row = {"case": name, "gpus": gpus}
            try:
                row |= check(case, groups if gpus > 1 else None)
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"[:300]
                if rank == 0:
                    traceback.print_exc(limit=3)
            rows.append(row)
            if rank == 0:
                print(row, flush=True)
                Path(options.json).write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))
    os._exit(0)  # without waiting for NCCL's own end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True)
    parser.add_argument("--json", required=True)
    parser.add_argument("--cases", nargs="*", default=[])
    parser.add_argument("--rank", type=int)
    parser.add_argument("--store")
    options = parser.parse_args()
    size = torch.cuda.device_count()
    if options.rank is not None:
        sys.path[:1] = [options.comfyui]
        sys.argv = sys.argv[:1]
        with torch.inference_mode():
            serve(options.rank, size, options.store, options)
    return one_rank_per_gpu(__file__, size)


if __name__ == "__main__":
    sys.exit(main())
