"""The second half of demo.py, run by the host's python: the prompts, their times, the comparison."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy_host import PACK_ROOT, Host
from comfy_host.instance import ComfyInstance, make_base_directory

sys.path.append(str(PACK_ROOT / "tests"))
from support.comfy import import_comfy  # noqa: E402
from support.comfy_client import ComfyClient, Event, PromptFailed  # noqa: E402
from support.prompts import Graph  # noqa: E402
from support.tiny_models import ModelShelf  # noqa: E402

WIDTH, HEIGHT, STEPS, SEED = 512, 512, 8, 42
TOLERANCE = 1e-5
RANK_PROGRAM = "rank/process/bootstrap.py"  # in the command line of every rank


@dataclass
class Run:
    """What one number of ranks did."""

    ranks: int
    processes: int
    first_seconds: float
    again_seconds: float
    latent: torch.Tensor
    file: Path


def main(tree: Path, output: Path) -> int:
    import_comfy(tree)
    base = make_base_directory(output, {"xdit-test-nodes": PACK_ROOT / "tests" / "support" / "host_nodes"})
    unet = ModelShelf(base / "models").flux(hidden=512, double=2, single=4)
    instance = ComfyInstance(Host(tree, Path(sys.executable)), base, ["--cpu", "--force-fp32"])
    print("starting ComfyUI ...", flush=True)
    with instance, ComfyClient(instance.url, base / "output", on_event=show_step) as client:
        print(f"ComfyUI answers at {instance.url}; its log is {instance.log}")
        try:
            runs = [sample(instance, client, unet, ranks) for ranks in (2, 1)]
        except PromptFailed as failed:
            print(f"\nThe prompt failed: {failed}\nComfyUI's log: {instance.log}", file=sys.stderr)
            return 1
    return 0 if report(*runs) else 1


def sample(instance: ComfyInstance, client: ComfyClient, unet: str, ranks: int) -> Run:
    """Queue the workflow twice, with another seed first: that run also starts the ranks and loads the model."""
    print(f"\n{WIDTH} × {HEIGHT}, {STEPS} steps on cpu:{ranks}")
    print("  first prompt: starts the ranks, loads the model", flush=True)
    first = client.run(flux_prompt(unet, ranks, SEED - 1)[0], timeout=600)
    print("  second prompt: everything is in place", flush=True)
    prompt, saved = flux_prompt(unet, ranks, SEED)
    again = client.run(prompt, timeout=600)
    processes = sum(RANK_PROGRAM in line for line in instance.processes().values())
    file = client.output_files(again, saved)[0]
    return Run(ranks, processes, first.seconds, again.seconds, client.latent(again, saved), file)


def flux_prompt(unet: str, ranks: int, seed: int) -> tuple[dict, str]:
    """The workflow, and the id of its SaveLatent node."""
    graph = Graph()
    config = graph.parallel_config(f"cpu:{ranks}", unsupported="refuse")
    model = graph.add("XDiTLoader", unet_name=unet, weight_dtype="default", parallel_config=config)
    latent = graph.add("EmptySD3LatentImage", width=WIDTH, height=HEIGHT, batch_size=1)
    sampled = graph.sample("XDiTSampler", model, graph.flux_conditioning(1, 64), latent, seed=seed, steps=STEPS)
    return graph.prompt, graph.save(sampled, f"demo/{ranks}-ranks").id


def show_step(event: Event) -> None:
    if event.type == "progress":
        step, steps = event.data["value"], event.data["max"]
        begin = f"    step of {steps}:" if step == 1 else ""
        print(f"{begin} {step}", end="\n" if step == steps else "", flush=True)


def report(two: Run, one: Run) -> bool:
    """Print times, files and difference; True if all held."""
    print()
    for run in (two, one):
        print(
            f"{run.ranks} rank{'s' if run.ranks > 1 else ' '}: first prompt {run.first_seconds:6.2f} s,"
            f" second {run.again_seconds:6.2f} s, {run.processes} rank process(es), {run.file}"
        )
    difference = ((two.latent - one.latent).norm() / one.latent.norm()).item()
    print(f"relative difference: {difference:.1e} (allowed: {TOLERANCE:.0e})")
    print("Ranks on one CPU share its cores: this shows that the work is divided, not that it is faster.")
    checks = {
        f"the latent of {two.ranks} ranks is finite": bool(two.latent.isfinite().all()),
        f"the latents differ by at most {TOLERANCE:.0e}": difference <= TOLERANCE,
        f"{two.ranks} ranks were {two.ranks} processes": two.processes == two.ranks,
        f"{one.ranks} rank was {one.ranks} process": one.processes == one.ranks,
    }
    for claim, held in checks.items():
        if not held:
            print(f"NOT TRUE: {claim}", file=sys.stderr)
    return all(checks.values())


if __name__ == "__main__":
    began = time.monotonic()
    code = main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{'All held' if code == 0 else 'FAILED'}; {time.monotonic() - began:.0f} s")
    sys.exit(code)
