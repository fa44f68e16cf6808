"""What a model's file tells the run, and the workflow of one case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from support.prompts import Graph

from ..engines import Engine
from ..workflow import Workflow


@dataclass(frozen=True)
class Case:
    """One size of one model.

    `latent`: a node that makes an empty latent, and its inputs. `tokens`: of the positive and of the negative prompt.
    `prompts` of `steps` steps are timed. `warm_up`: one of one step goes before, and its latent is compared; without it
    the first timed prompt's is. `step_seconds`: of stock ComfyUI on an H200, for the time budget only.
    """

    name: str
    latent: tuple[str, dict[str, int]]
    cfg: float
    tokens: tuple[int, int]
    steps: int
    step_seconds: float
    warm_up: bool = True
    prompts: int = 2


@dataclass(frozen=True)
class Job:
    """One model. `module` makes ComfyUI's class on `meta`; `file_name` gives a parameter's name in the file.

    `context`, `pooled`, `guidance`: of the conditioning (pooled 0 and guidance below 0: none). `metadata`: of the file.
    `vector`: width of the model's input "y", 0 without. `video`: an image is a video of one frame to the model.
    """

    title: str
    module: Callable[[], torch.nn.Module]
    context: int
    pooled: int
    cases: tuple[Case, ...]
    guidance: float = -1.0
    scheduler: str = "simple"
    metadata: dict[str, str] = field(default_factory=dict)
    file_name: Callable[[str], str] = str
    vector: int = 0
    video: bool = False

    def shapes(self) -> dict[str, torch.Size]:
        return {self.file_name(name): value.shape for name, value in self.module().state_dict().items()}


def workflow(job: Job, case: Case, engine: Engine, file: str, steps: int, seed: int) -> Workflow:
    """Load, sample, save. Two prompts, of which ComfyUI evaluates the first alone at cfg 1."""
    graph = Graph()
    if engine.devices is None:
        model = graph.add("UNETLoader", unet_name=file, weight_dtype="default")
    else:
        config = graph.parallel_config(engine.devices, **engine.settings)
        model = graph.add("XDiTLoader", unet_name=file, weight_dtype="default", parallel_config=config)
    about = {"context_dim": job.context, "pooled_dim": job.pooled, "guidance": job.guidance}
    positive, negative = (
        graph.add("RandomConditioning", seed=number, tokens=tokens, **about)
        for number, tokens in enumerate(case.tokens, 1)
    )
    node, inputs = case.latent
    sampled = graph.sample(
        "XDiTSampler" if engine.devices else "KSampler",
        model,
        positive,
        graph.add(node, **inputs),
        negative=negative,
        cfg=case.cfg,
        scheduler=job.scheduler,
        steps=steps,
        seed=seed,
    )
    return Workflow(graph.prompt, sampled.id, graph.save(sampled, "benchmark/latent").id, steps)
