"""One call of a full-size diffusion model as a pipeline over all GPUs, beside one GPU and ulysses.

    python benchmarks/pipefusion.py --comfyui PATH --json FILE [--cases WORD ...] [--patches N ...] [--compiled]
    NCCL_P2P_DISABLE=1 python benchmarks/pipefusion.py ...          # stands in for slow links

Random bf16 weights, the attention kernel that `auto` takes. Prints for each case milliseconds a call (median), the
ratios over one GPU, the relative difference from one GPU's output (a repeated call on the same latent finds keys and
values as they would be fresh, so it should be as small as another way of computing makes it), and GiB of weights and in
all at most.
--profile adds where the time of a call goes on each rank, for one GPU and for each way: attention, GEMM, NCCL with its
waiting, copies (hand-overs through host memory are copies), element-wise kernels, idle. Several --patches of one size
in one run cost seconds each:

    NCCL_P2P_DISABLE=1 python benchmarks/pipefusion.py ... --compiled --cases 2048 --patches 3 4 5 6 8 --without-ulysses
"""

import argparse
import itertools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from direct.launch import one_rank_per_gpu
from direct.pack import import_pack
from model_calls import CASES, apart, chosen, random_model, timed
from step_profile import profiled

GIB = 2**30
WARM_CALLS = 5  # with a whole one first, then those before a CUDA graph is captured
SLOW = os.environ.get("NCCL_P2P_DISABLE") == "1"
IDENTITY = {"uuids": ["a condition"]}


class Engine:
    """Each way: milliseconds a call, its output, and with `profile` the kinds of each rank's kernels."""

    def __init__(self, model: torch.nn.Module, size: int, device: torch.device, compiled: bool, profile: bool):
        from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
        from xdit_comfyui.parallel_backend.rank.run.mesh import Meshes
        from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        self._size = size
        self._profile = profile
        self._meshes = Meshes(device)
        self._sharded = ShardedModel(model, plan_for(model))
        self._accelerated = accelerate(model, self._sharded) if compiled else None

    def mesh(self, **degrees):
        from xdit_comfyui.parallel_backend.contract.config import Degrees

        return self._meshes.get(Degrees(**degrees))

    def accelerate(self, *identity) -> None:
        if self._accelerated is not None:
            self._accelerated.start(lambda line: print(line, flush=True), identity, True)

    def one(self, call):
        self.accelerate("one")
        self._sharded.session = None
        return self._measured(call)

    def ulysses(self, call):
        from xdit_comfyui.parallel_backend.sharding.engine.session import Session

        self.accelerate("ulysses")
        groups = self.mesh(ulysses=self._size).sp
        self._sharded.session = Session(replace(groups, symmetric=None) if SLOW else groups)
        try:
            return self._measured(call)
        finally:
            self._sharded.session = None

    def pipefusion(self, call, patches: int, rounds: int):
        """In chunks of blocks for `rounds` rounds."""
        from xdit_comfyui.parallel_backend.sharding.engine.session import Session
        from xdit_comfyui.parallel_backend.sharding.pipeline import stages
        from xdit_comfyui.parallel_backend.sharding.pipeline.pipelined_model import PipelinedModel
        from xdit_comfyui.parallel_backend.sharding.pipeline.schedule import Schedule

        self.accelerate("pipefusion", patches, rounds)
        stages.MOST_ROUNDS = rounds
        mesh = self.mesh(pipefusion=self._size)
        session = self._sharded.session = Session(mesh.sp)
        stage = PipelinedModel(self._sharded, mesh.pipe, Schedule(patches, 0), session.note)
        stage.start()
        try:
            return self._measured(call)
        finally:
            stage.stop()
            self._sharded.session = None

    def _measured(self, call):
        for _ in range(WARM_CALLS if self._accelerated is not None else 2):
            call()
        ms, output = timed(call)
        profiles = [None] * self._size
        if self._profile:
            dist.all_gather_object(profiles, profiled(call))
        return ms, output, [kinds for kinds in profiles if kinds is not None]


def serve(rank: int, size: int, store: str, options: argparse.Namespace) -> None:
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.FileStore(store, size), rank=rank, world_size=size)
    import_pack()
    from xdit_comfyui.parallel_backend.rank.attention.kernel_choice import attention_kernel

    rows, model, built = [], None, None
    for name in chosen(options.cases):
        build, inputs = CASES[name]
        if built != build.__qualname__:
            model = engine = None
            torch.cuda.empty_cache()
            model, built = random_model(build), build.__qualname__
            engine = Engine(model, size, device, options.compiled, options.profile)
        generator = torch.Generator("cuda").manual_seed(1)

        def randn(*shape, generator=generator):
            return torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)

        args, kwargs = inputs(randn)

        def call(model=model, args=args, kwargs=kwargs):
            return model(*args, transformer_options=dict(IDENTITY), **kwargs)

        with attention_kernel("auto"):
            one_ms, one, profiles = engine.one(call)
            show_profiles(rank, name, "one GPU", profiles)
            ways = {} if options.without_ulysses else {"ulysses": lambda: engine.ulysses(call)}  # noqa: B023
            for setting in itertools.product(options.patches, options.rounds):
                label = ", ".join(map("{} {}".format, setting, ("patches", "rounds")))
                ways[f"pipefusion, {label}"] = lambda setting=setting: engine.pipefusion(call, *setting)  # noqa: B023
            for way, measure in ways.items():
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                ms, output, profiles = measure()
                show_profiles(rank, name, way, profiles)
                row = {
                    "case": name, "gpus": size, "compiled": options.compiled, "p2p": not SLOW, "way": way,
                    "one_gpu_ms": one_ms, "ms": ms, "over_one_gpu": one_ms / ms, "difference": apart(output, one),
                    "gib_beside_the_weights": (torch.cuda.max_memory_allocated() - before) / GIB,
                }  # fmt: skip
                rows.append({**row, "profiles": profiles} if profiles else row)
                if rank == 0:
                    print({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
                    about = {
                        "torch": torch.__version__,
                        "gpu": torch.cuda.get_device_name(),
                        "command": "pipefusion.py",
                    }
                    Path(options.json).write_text(json.dumps({"about": about, "rows": rows}, indent=1))
    os._exit(0)  # without waiting for NCCL's own end


def show_profiles(rank: int, case: str, way: str, profiles: list[dict[str, float]]) -> None:
    for number, kinds in enumerate(profiles) if rank == 0 else ():
        print(f"{case}, {way}, rank {number}, ms:", {kind: round(ms, 2) for kind, ms in kinds.items()}, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True)
    parser.add_argument("--json", required=True)
    parser.add_argument("--cases", nargs="*", default=["flux"], help="words of the names of the cases to run")
    parser.add_argument("--patches", nargs="*", type=int, default=[4, 6, 8, 12])
    parser.add_argument("--rounds", nargs="*", type=int, default=[4], help="chunks of blocks that a rank owns at most")
    parser.add_argument("--without-ulysses", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--store")
    options = parser.parse_args()
    size = torch.cuda.device_count()
    if options.rank is not None:
        sys.path.insert(1, options.comfyui)
        sys.argv = sys.argv[:1]
        with torch.inference_mode():
            serve(options.rank, size, options.store, options)
    return one_rank_per_gpu(__file__, size)


if __name__ == "__main__":
    sys.exit(main())
